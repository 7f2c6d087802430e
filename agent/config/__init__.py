# SPDX-License-Identifier: Apache-2.0
"""lb.yml: what may stand in it, and how a fault in it is told."""
