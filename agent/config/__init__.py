# SPDX-License-Identifier: Apache-2.0
"""lb.yml: its schema, and how a fault in it is told."""
