# SPDX-License-Identifier: Apache-2.0
"""A frame in a few words, from its first bytes: addresses, ports, flags, as tcpdump begins its lines. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

_TCP, _UDP, _ICMP, _ICMP6, _FRAGMENT = 6, 17, 1, 58, 44
_NAMES: Final = {_TCP: "tcp", _UDP: "udp", _ICMP: "icmp", _ICMP6: "icmp6"}
_FLAGS: Final = ((2, "S"), (16, "."), (8, "P"), (1, "F"), (4, "R"), (32, "U"))
_TAGS: Final = (0x8100, 0x88A8)


def packet_line(head: bytes, length: int) -> str:
    """Return protocol, ends, TCP flags and the frame's length in bytes; what cannot be read is named."""
    at, ethertype = 14, int.from_bytes(head[12:14], "big")
    while ethertype in _TAGS and len(head) >= at + 4:
        ethertype, at = int.from_bytes(head[at + 2 : at + 4], "big"), at + 4
    if ethertype == 0x0800 and len(head) >= at + 20:
        offset = int.from_bytes(head[at + 6 : at + 8], "big") & 0x1FFF
        text = _ends(head, at + 12, 4, head[at + 9], at + 4 * (head[at] & 15), offset)
    elif ethertype == 0x86DD and len(head) >= at + 40:
        protocol, next_at, offset = head[at + 6], at + 40, 0
        if protocol == _FRAGMENT and len(head) >= next_at + 8:
            protocol, offset = head[next_at], int.from_bytes(head[next_at + 2 : next_at + 4], "big") >> 3
            next_at += 8
        text = _ends(head, at + 8, 16, protocol, next_at, offset)
    else:
        text = f"ethertype 0x{ethertype:04x}"
    return f"{text} ({length} bytes)"


def _ends(head: bytes, at: int, size: int, protocol: int, payload: int, fragment_offset: int) -> str:
    source, target = ip_address(head[at : at + size]), ip_address(head[at + size : at + 2 * size])
    name = _NAMES.get(protocol, f"protocol {protocol}")
    if fragment_offset:
        return f"{name} {source} > {target} fragment"
    if protocol not in (_TCP, _UDP) or len(head) < payload + 4:
        return f"{name} {source} > {target}"
    ports = [int.from_bytes(head[payload + i : payload + i + 2], "big") for i in (0, 2)]
    flags = ""
    if protocol == _TCP and len(head) >= payload + 14:
        bits = head[payload + 13]
        flags = f" [{''.join(mark for bit, mark in _FLAGS if bits & bit)}]"
    form = "[{}]:{}" if size == 16 else "{}:{}"
    return f"{name} {form.format(source, ports[0])} > {form.format(target, ports[1])}{flags}"
