# SPDX-License-Identifier: Apache-2.0
"""The kernel's network state: links, addresses, routes, neighbors, and events about them. Decides nothing."""
