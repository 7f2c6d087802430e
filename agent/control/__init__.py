# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the control socket, and what it answers there."""
