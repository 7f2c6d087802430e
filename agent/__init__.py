# SPDX-License-Identifier: Apache-2.0
"""The daemon of a node and its command line. Only this package translates between `bgp`, `bpf` and `topology`."""
