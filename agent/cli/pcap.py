# SPDX-License-Identifier: Apache-2.0
"""pcap-filter(7) and pcap files for `lbctl trace`, by libpcap: its filters are what operators know from tcpdump."""

from __future__ import annotations

import ctypes as ct
import os
import struct
from typing import BinaryIO, Final

from agent.errors import AgentError

LINK_ETHERNET: Final = 1
SNAPLEN: Final = 128
_MAGIC_NANOSECONDS: Final = 0xA1B23C4D


class _Program(ct.Structure):
    _fields_ = (("length", ct.c_uint), ("instructions", ct.c_void_p))


class _Head(ct.Structure):
    _fields_ = (("seconds", ct.c_long), ("microseconds", ct.c_long), ("kept", ct.c_uint), ("length", ct.c_uint))


class PcapFilter:
    """A compiled filter. Raises AgentError if it is wrong, or libpcap is missing."""

    def __init__(self, expression: str) -> None:
        try:
            self._lib = ct.CDLL("libpcap.so.0.8")
        except OSError:
            raise AgentError("a filter needs libpcap: apt-get install libpcap0.8, or use the options alone") from None
        self._lib.pcap_open_dead.restype = ct.c_void_p
        self._lib.pcap_geterr.restype = ct.c_char_p
        handle = ct.c_void_p(self._lib.pcap_open_dead(LINK_ETHERNET, SNAPLEN))
        self._program = _Program()
        try:
            # No netmask (PCAP_NETMASK_UNKNOWN): only `ip broadcast` would need it.
            if self._lib.pcap_compile(
                handle, ct.byref(self._program), os.fsencode(expression), 1, ct.c_uint(0xFFFFFFFF)
            ):
                why = ct.string_at(self._lib.pcap_geterr(handle)).decode(errors="replace")
                raise AgentError(f"'{expression}' is no filter: {why}; see pcap-filter(7)")
        finally:
            self._lib.pcap_close(handle)

    def matches(self, head: bytes, length: int) -> bool:
        """Return whether a frame matches, of which `head` is kept and `length` its whole length in bytes."""
        return bool(
            self._lib.pcap_offline_filter(
                ct.byref(self._program), ct.byref(_Head(kept=len(head), length=max(length, len(head)))), head
            )
        )


class PcapFile:
    """A file for tcpdump and Wireshark, with nanoseconds (draft-ietf-opsawg-pcap)."""

    def __init__(self, file: BinaryIO) -> None:
        """Write the file's header."""
        self._file = file
        file.write(struct.pack("<IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAPLEN, LINK_ETHERNET))
        file.flush()

    def write(self, time_s: float, head: bytes, length: int) -> None:
        """Append a frame, and have it on disk: the trace may be ended at any moment."""
        seconds = int(time_s)
        nanoseconds = int((time_s - seconds) * 1e9)
        self._file.write(struct.pack("<IIII", seconds, nanoseconds, len(head), max(length, len(head))) + head)
        self._file.flush()
