# SPDX-License-Identifier: Apache-2.0
"""lbctl: its commands, their output, and the way to the agent."""
