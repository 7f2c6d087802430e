# SPDX-License-Identifier: Apache-2.0
"""Bidirectional Forwarding Detection (RFC 5880): sessions, packets, UDP sockets, and the process that runs them."""
