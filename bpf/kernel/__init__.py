# SPDX-License-Identifier: Apache-2.0
"""bpf(2) by ctypes on libbpf: maps, programs, links, pins, and what XDP program an interface has.

Knows nothing of anylb: callers pass sizes and bytes. File descriptors are plain ints that the caller closes.
"""
