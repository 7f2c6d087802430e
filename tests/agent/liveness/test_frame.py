# SPDX-License-Identifier: Apache-2.0
"""Frames of questions, compared with those that the packet builders of the program's tests make."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from support import packets

from agent.liveness.frame import Endpoints, LinkHeader, question_frame
from agent.liveness.question import Via
from bpf.layout.echo import EchoKind, EchoMessage

OWN, NODE = "10.0.0.11", "10.0.0.12"
OWN6, NODE6 = "2001:db8::11", "2001:db8::12"
NEXT, HERE = packets.mac("02:00:00:00:00:02"), packets.mac("02:00:00:00:00:01")
TAG, PORT, NONCE = 0x000B, 4742, 0x1234_5678_9ABC_DEF0
PAYLOAD = EchoMessage(EchoKind.QUESTION, 7, NONCE).pack()
ENDS = Endpoints(IPv4Address(OWN), IPv4Address(NODE), PORT)
ENDS6 = Endpoints(IPv6Address(OWN6), IPv6Address(NODE6), PORT)
SOURCE_PORT = 49152 + (NONCE & 0x3FFF)


def udp4() -> bytes:
    bare = packets.udp(PAYLOAD, src=OWN, dst=NODE, sport=PORT, dport=PORT)
    return bare[:6] + bytes(2) + bare[8:]


def frame(via: Via, ends: Endpoints = ENDS, vlan: int = 0) -> bytes:
    return question_frame(PAYLOAD, via, ends, LinkHeader(NEXT, HERE, vlan), TAG, NONCE)


def inner() -> bytes:
    return packets.ipv4(udp4(), src=OWN, dst=NODE, protocol=packets.UDP, ident=0)


def inner6() -> bytes:
    payload = packets.udp(PAYLOAD, src=OWN6, dst=NODE6, sport=PORT, dport=PORT)
    return packets.ipv6(payload, src=OWN6, dst=NODE6, protocol=packets.UDP)


def test_plain() -> None:
    assert frame(Via.PLAIN) == packets.ethernet(inner(), dst=NEXT, src=HERE)


def test_a_marker_is_the_source_mac() -> None:
    assert frame(Via.MARKER) == packets.ethernet(inner(), dst=NEXT, src=packets.marker(1, TAG))


def test_tunnels() -> None:
    ipip = packets.ipv4(inner(), src=OWN, dst=NODE, protocol=packets.IPIP, ident=1)
    assert frame(Via.IPIP) == packets.ethernet(ipip, dst=NEXT, src=HERE)
    gue = packets.ipv4(packets.gue(inner(), source=SOURCE_PORT), src=OWN, dst=NODE, protocol=packets.UDP, ident=1)
    assert frame(Via.GUE) == packets.ethernet(gue, dst=NEXT, src=HERE)


def test_over_ipv6() -> None:
    assert frame(Via.PLAIN, ENDS6) == packets.ethernet(inner6(), dst=NEXT, src=HERE, ethertype=packets.IPV6)
    ipip = packets.ipv6(inner6(), src=OWN6, dst=NODE6, protocol=packets.SIX, label=1)
    assert frame(Via.IPIP, ENDS6) == packets.ethernet(ipip, dst=NEXT, src=HERE, ethertype=packets.IPV6)
    tunnel = packets.gue(inner6(), source=SOURCE_PORT)
    gue = packets.ipv6(tunnel, src=OWN6, dst=NODE6, protocol=packets.UDP, label=1)
    assert frame(Via.GUE, ENDS6) == packets.ethernet(gue, dst=NEXT, src=HERE, ethertype=packets.IPV6)


@pytest.mark.parametrize("via", [Via.PLAIN, Via.GUE, Via.IPIP, Via.MARKER])
def test_a_vlan_tag_precedes_the_packet(via: Via) -> None:
    bare = frame(via)
    assert frame(via, vlan=42) == bare[:12] + b"\x81\x00\x00\x2a" + bare[12:]
