# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the control socket: what it serves there, and the HTTP server."""
