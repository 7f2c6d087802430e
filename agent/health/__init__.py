# SPDX-License-Identifier: Apache-2.0
"""The health checks of this node's own services."""
