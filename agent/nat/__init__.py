# SPDX-License-Identifier: Apache-2.0
"""NAT: the backends of services without an agent, and the sessions with them."""
