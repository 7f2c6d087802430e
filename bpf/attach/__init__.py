# SPDX-License-Identifier: Apache-2.0
"""The programs on real interfaces: XDP on the uplinks, the egress program on tc, and the pins that keep them."""
