# SPDX-License-Identifier: Apache-2.0
"""The hand-over of NAT sessions: when a row's chain changes, its new nodes get the records of its sessions."""
