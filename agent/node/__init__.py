# SPDX-License-Identifier: Apache-2.0
"""One node: what it knows, what follows from it, and the loop that carries it out."""
