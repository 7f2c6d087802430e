# SPDX-License-Identifier: Apache-2.0
"""The sessions of NAT services on this node: what expires, what is listed, closed and watched."""
