# SPDX-License-Identifier: Apache-2.0
"""Whether this node's own services serve."""
