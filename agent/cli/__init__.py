# SPDX-License-Identifier: Apache-2.0
"""lbctl: its commands, their output, and the client of the agent's control socket."""
