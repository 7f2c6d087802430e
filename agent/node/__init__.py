# SPDX-License-Identifier: Apache-2.0
"""One node: its state, its decisions, and the loop that applies them."""
