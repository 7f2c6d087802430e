# SPDX-License-Identifier: Apache-2.0
"""Makes veth interfaces take what their peers' XDP programs send: `python -m topology.xdp_pass INTERFACE...`.

A frame that XDP sends back (XDP_TX) on a veth waits in the peer's ring until the peer's NAPI runs, and it wakes the
NAPI only of a peer that has an XDP program itself (veth_xdp_flush() in drivers/net/veth.c). GRO alone gives the peer
the ring, but then frames lie there until ordinary traffic on the pair takes them along, and once 256 wait the others
are dropped: on a quiet pair 63 of 240 arrived. So the end that a switch would be in reality gets the smallest program
there is. Network cards need nothing of the sort.

Owns: that program and its attachment. Used by the `exec` lines of the lab files, as it stands under containerlab too.
"""

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Sequence

from topology.errors import LabError

BPF_PROG_TYPE_XDP = 6
XDP_FLAGS_DRV_MODE = 1 << 2
# struct bpf_insn (linux/bpf.h): r0 = XDP_PASS (2); exit
PROGRAM = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)


def attach(interfaces: Sequence[str]) -> None:
    """Attach the program natively to each of the interfaces; it stays until they go. Raises LabError."""
    try:
        libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise LabError("libbpf.so.1 is missing: apt-get install libbpf1") from None
    program = libbpf.bpf_prog_load(BPF_PROG_TYPE_XDP, b"xdp_pass", b"GPL", PROGRAM, len(PROGRAM) // 8, None)
    if program < 0:
        raise LabError(f"the kernel does not load a BPF program: {os.strerror(-program)}")
    try:
        for interface in interfaces:
            try:
                index = socket.if_nametoindex(interface)
            except OSError:
                raise LabError(f"no interface {interface}") from None
            error = libbpf.bpf_xdp_attach(index, program, ctypes.c_uint32(XDP_FLAGS_DRV_MODE), None)
            if error < 0:
                raise LabError(
                    f"{interface} takes no native XDP program: {os.strerror(-error)} (is its MTU above 3500?)"
                )
    finally:
        os.close(program)


def main() -> int:
    """Run from the command line."""
    try:
        attach(sys.argv[1:])
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
