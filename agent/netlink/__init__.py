# SPDX-License-Identifier: Apache-2.0
"""The kernel's network state: interfaces, addresses, routes, neighbors, and events about them. I/O only."""
