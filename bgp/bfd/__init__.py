# SPDX-License-Identifier: Apache-2.0
"""Bidirectional Forwarding Detection (RFC 5880): the session, its packets and sockets, and the process."""
