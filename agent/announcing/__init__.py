# SPDX-License-Identifier: Apache-2.0
"""What this node announces to its routers: orders, decision, routes, and how far the adj-rib-out agrees."""
