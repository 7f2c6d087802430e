# SPDX-License-Identifier: Apache-2.0
"""Echo questions, for the packet oracle: which packets are one, and the answer. Written from the diagram in
bpf/layout/echo.py; shares no code with it.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from support.oracle.headers import header

QUESTION, ANSWER = 1, 2
READY, DATA_PATH = 1, 2
PLAIN, TUNNEL, MARKER = 0, 1, 2
NEVER = 0xFFFF_FFFF
SIZE = 64


@dataclass(frozen=True)
class Echo:
    """What a node answers. Its agent's heartbeat is `fresh`, or there was none; `epochs`: of new flows, the other."""

    cluster: int
    port: int
    fresh: bool = False
    ready: bool = False
    boot: int = 0
    epochs: tuple[int, int] = (0, 0)
    view: int = 0
    tables: int = 0


NO_ECHO = Echo(0, 0)


def answer(
    echo: Echo,
    family: int,
    packet: bytes,
    source_mac: bytes,
    encap: int,
    prefixes: Collection[IPv4Network | IPv6Network],
) -> tuple[bytes, bytes] | None:
    """Return the MAC to answer to and the answer, from its IP header on; None if a packet to this node is no question.

    `packet` may have padding. `encap` is how it came.
    """
    ip = header(IP, packet, 20) if family == 4 else header(IPv6, packet, 40)
    if ip is None:
        return None
    start = 20 if family == 4 else 40
    if family == 4:
        whole = (ip.version, ip.ihl, ip.len, ip.frag, ip.proto) == (4, 5, start + 8 + SIZE, 0, 17) and not ip.flags.MF
    else:
        whole = (ip.version, ip.plen, ip.nh) == (6, 8 + SIZE, 17)
    udp, message = header(UDP, packet[start:], 8), packet[start + 8 : start + 8 + SIZE]
    if not whole or udp is None or (udp.dport, udp.len, len(message)) != (echo.port, 8 + SIZE, SIZE):
        return None
    if ip.src == ip.dst or not any(ip_address(ip.src) in prefix for prefix in prefixes):
        return None
    to = message[48:54] if encap == MARKER else source_mac
    if to[0] & 1 or message[54] != encap:
        return None
    if message[:5] + message[6:12] != struct.pack("!4sBHI", b"LBEC", QUESTION, 1, echo.cluster):
        return None
    turned = UDP(sport=udp.dport, dport=udp.sport) / Raw(_answered(echo, message))
    if family == 4:
        turned.chksum = 0
        reply = IP(tos=ip.tos, id=ip.id, flags=ip.flags, ttl=64, src=ip.dst, dst=ip.src) / turned
    else:
        reply = IPv6(tc=ip.tc, fl=ip.fl, hlim=64, src=ip.dst, dst=ip.src) / turned
    return to, bytes(reply)


def _answered(echo: Echo, question: bytes) -> bytes:
    flags = DATA_PATH | (READY if echo.ready else 0)
    return b"".join(
        (
            struct.pack("!4sBBHI", b"LBEC", ANSWER, flags, 1, echo.cluster),
            struct.pack("!I", 0 if echo.fresh else NEVER),
            question[16:24],
            struct.pack("!QIIII", echo.boot, *echo.epochs, echo.view, echo.tables),
            question[48:],
        )
    )
