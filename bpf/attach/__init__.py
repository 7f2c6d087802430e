# SPDX-License-Identifier: Apache-2.0
"""The programs on real interfaces: XDP on the uplinks, the MSS clamp on tc's egress, and the pins that keep them."""
