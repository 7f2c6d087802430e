# SPDX-License-Identifier: Apache-2.0
"""IPv6 packets to a VIP: extension headers, ICMPv6, sockets; as data, like test_packets.py.

This node is 1; every service's chain is 2, 3, 4, 5 unless a case says otherwise.
"""

import socket
from dataclasses import dataclass
from typing import Any

import pytest
from support import packets
from support.netns import add_address6
from support.packets import ACK, HERE, ICMP6, ROUTER, SYN, extension, fragment6, ipv6

from bpf.layout.counter import Counter
from bpf.layout.service import Affinity, Protocol

VIP, ELSEWHERE, CLIENT = "2001:db8:99::1", "2001:db8:98::1", "2001:db8:1::2"
ENDS = {"src": CLIENT, "dst": VIP}
NONE, ECHO, DNS = 0, 1, 2
HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, NO_NEXT, DESTINATION, MOBILITY = 0, 43, 44, 51, 59, 60, 135
C = Counter


def tcp(flags: int = SYN, dport: int = 7000, **more: Any) -> bytes:
    return packets.tcp(sport=40000, dport=dport, flags=flags, **ENDS, **more)


def udp(dport: int = 53, **more: Any) -> bytes:
    return packets.udp(b"question", sport=40000, dport=dport, **ENDS, **more)


def six(payload: bytes, protocol: int = packets.TCP, hop: int = 0, **ip: Any) -> bytes:
    source = packets.marker(hop, 19) if hop else ROUTER
    whole = ipv6(payload, protocol=protocol, **(ENDS | ip))
    return packets.ethernet(whole, dst=HERE, src=source, ethertype=packets.IPV6)


def chained(count: int, kind: int = DESTINATION) -> bytes:
    """Return TCP after so many extension headers."""
    payload, following = tcp(), packets.TCP
    for _ in range(count):
        payload, following = extension(payload, following), kind
    return payload


def reply(
    sport: int = 7000, src: str = VIP, before: int | None = None, cut: int = 48, protocol: int = packets.TCP
) -> bytes:
    """Return the first bytes of a server's packet to the client: 8 bytes of TCP are enough."""
    ends = {"src": src, "dst": CLIENT}
    build = packets.tcp if protocol == packets.TCP else packets.udp
    inner = build(sport=sport, dport=40000, **ends)
    if before == FRAGMENT:
        return ipv6(fragment6(inner, protocol), protocol=FRAGMENT, **ends)[: cut + 8]
    return ipv6(inner, protocol=protocol, **ends)[:cut]


def error(quoted: bytes, kind: int = 2, **more: Any) -> bytes:
    ends = {"src": "2001:db8:7::7", "dst": VIP}
    return six(packets.icmp6(quoted, kind=kind, rest=1400, **ends), ICMP6, **ends, **more)


@dataclass(frozen=True)
class Case:
    what: str
    packet: bytes
    verdict: str
    slot: int
    events: tuple[Counter, ...]
    to: int | None = None
    chain: tuple[int, ...] = (2, 3, 4, 5)


FIRST = (C.RX, C.FORWARD_FIRST)
ABOUT = (C.RX, C.RX_ICMP_ERROR, C.FORWARD_FIRST)
PASSED = (C.PASS_NO_SERVICE,)
CASES = [
    Case("SYN at an ingress", six(tcp()), "tx", ECHO, FIRST, to=2),
    Case("ACK at an ingress", six(tcp(ACK)), "tx", ECHO, FIRST, to=2),
    Case("SYN at its owner", six(tcp()), "pass", ECHO, (C.RX, C.DELIVER_OWNER), chain=(1, 2)),
    Case("SYN forwarded here", six(tcp(), hop=1), "pass", ECHO, (C.RX_FORWARDED, C.DELIVER_FORWARDED_SYN)),
    Case("ACK with one hop too many", six(tcp(ACK), hop=10), "drop", ECHO, (C.RX_FORWARDED, C.DROP_HOP_LIMIT)),
    Case("UDP", six(udp(), packets.UDP), "tx", DNS, FIRST, to=2),
    Case("to an address of no service", six(tcp(), dst=ELSEWHERE), "pass", NONE, PASSED),
    Case("a port that is not served", six(tcp(dport=22)), "pass", NONE, PASSED),
    Case("hop by hop", six(extension(tcp(), packets.TCP), HOP_BY_HOP), "tx", ECHO, FIRST, to=2),
    Case("destination options", six(extension(tcp(), packets.TCP, 3), DESTINATION), "tx", ECHO, FIRST, to=2),
    Case("routing header without segments left", six(extension(tcp(), packets.TCP), ROUTING), "tx", ECHO, FIRST, to=2),
    Case("routing header with a segment left", six(extension(tcp(), packets.TCP, rest=b"\4\1" + bytes(4)), ROUTING),
         "drop", NONE, (C.DROP_IPV6_HEADERS,)),
    Case("atomic fragment", six(fragment6(tcp(), packets.TCP), FRAGMENT), "tx", ECHO, FIRST, to=2),
    Case("six extension headers", six(chained(6), DESTINATION), "tx", ECHO, FIRST, to=2),
    Case("seven extension headers", six(chained(7), DESTINATION), "drop", NONE, (C.DROP_IPV6_HEADERS,)),
    Case("30 extension headers", six(chained(30), DESTINATION), "drop", NONE, (C.DROP_IPV6_HEADERS,)),
    Case("the longest extension header that fits", six(extension(tcp(), packets.TCP, 118), DESTINATION), "tx", ECHO,
         FIRST, to=2),
    Case("extension headers beyond the first 1023 bytes", six(extension(tcp(), packets.TCP, 130), DESTINATION), "drop",
         NONE, (C.DROP_IPV6_HEADERS,)),
    Case("authentication header", six(extension(tcp(), packets.TCP), AUTH), "pass", NONE, PASSED),
    Case("mobility header", six(extension(tcp(), packets.TCP), MOBILITY), "pass", NONE, PASSED),
    Case("no next header", six(b"12345678", NO_NEXT), "pass", NONE, PASSED),
    Case("unknown header", six(tcp(), 253), "pass", NONE, PASSED),
    Case("unknown header to an address of no service", six(tcp(), 253, dst=ELSEWHERE), "pass", NONE, PASSED),
    Case("extension header beyond the packet", six(extension(tcp(), packets.TCP, 9, rest=bytes(6)), DESTINATION),
         "drop", NONE, (C.DROP_MALFORMED,)),
    Case("length beyond the frame", six(tcp(), length=1400), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("length 0", six(tcp(), length=0), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("length that cuts TCP", six(tcp(), length=19), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("version 4", six(tcp(), version=4), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("UDP length beyond the packet", six(udp(length=17), packets.UDP), "drop", DNS, (C.DROP_MALFORMED,)),
    Case("later fragment of UDP", six(fragment6(b"x" * 16, packets.UDP, 90), FRAGMENT), "tx", DNS, FIRST, to=2),
    Case("fragment at the owner", six(fragment6(b"x" * 16, packets.UDP, 90), FRAGMENT), "pass", DNS,
         (C.RX, C.DELIVER_FRAGMENT), chain=(1, 2)),
    Case("too big, quoting 8 bytes of TCP", error(reply()), "tx", ECHO, ABOUT, to=2),
    Case("unreachable", error(reply(), 1), "tx", ECHO, ABOUT, to=2),
    Case("time exceeded", error(reply(), 3), "tx", ECHO, ABOUT, to=2),
    Case("parameter problem", error(reply(), 4), "tx", ECHO, ABOUT, to=2),
    Case("error about a first fragment", error(reply(before=FRAGMENT)), "tx", ECHO, ABOUT, to=2),
    Case("error about UDP", error(reply(53, protocol=packets.UDP)), "tx", DNS, ABOUT, to=2),
    Case("error quoting another sender", error(reply(src="2001:db8:99::9")), "pass", NONE, PASSED),
    Case("error quoting too little", error(reply(cut=43)), "pass", NONE, PASSED),
    Case("error quoting a port that is not served", error(reply(81)), "pass", NONE, PASSED),
    Case("echo request", six(packets.icmp6(b"ping", kind=128, **ENDS), ICMP6), "pass", NONE, PASSED),
    Case("neighbor solicitation", six(packets.icmp6(bytes(20), kind=135, **ENDS), ICMP6), "pass", NONE, PASSED),
    Case("router advertisement", six(packets.icmp6(bytes(20), kind=134, **ENDS), ICMP6), "pass", NONE, PASSED),
    Case("from the VIP", six(tcp(), src=VIP), "drop", NONE, (C.DROP_LAND,)),
    *(
        Case(f"from {source}", six(tcp(), src=source), "drop", NONE, (C.DROP_MARTIAN,))
        for source in ("::", "::1", "::ffff:10.1.0.2", "fe80::1", "febf::1", "ff02::1")
    ),
    Case("from an address next to the martians'", six(tcp(), src="fec0::1"), "tx", ECHO, FIRST, to=2),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(program: Any) -> Any:
    program.serve(ECHO, Protocol.TCP, 7000, vip=VIP)
    program.serve(DNS, Protocol.UDP, 53, vip=VIP, affinity=Affinity.TWO_TUPLE)
    return program


@pytest.mark.parametrize("tag", [b"", b"\x81\x00\x20\x64"], ids=["plain", "tagged"])
@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_packet(case: Case, tag: bytes, world: Any) -> None:
    """With a VLAN tag too, where another copy of the program's code handles the packet."""
    for slot in (ECHO, DNS):
        world.set_chain(slot, case.chain)
    packet = case.packet[:12] + tag + case.packet[12:]
    outcome = world.observe(packet)
    assert outcome.verdict == case.verdict
    assert outcome.events == {(case.slot, event): 1 for event in case.events}
    if case.to is None:
        assert outcome.packet == packet
    else:
        macs = packets.mac(f"02:00:00:00:00:{case.to:02x}") + packets.marker(1, 11)
        assert outcome.packet == macs + packet[12:]


def test_truncated_at_any_byte_is_never_forwarded(world: Any) -> None:
    world.set_chain(ECHO, (2, 3))
    for whole in (six(chained(3), DESTINATION), error(reply())):
        assert world.send(whole)[0] == "tx"
        for length in range(14, len(whole)):
            verdict, after = world.send(whole[:length])
            assert verdict in ("pass", "drop"), length
            assert after == whole[:length]


def test_sockets_are_found(world: Any) -> None:
    """A connection of this node is delivered, whatever the chain says; so are errors about it."""
    for address in (VIP, CLIENT):
        add_address6(address, "lo")
    world.set_chain(ECHO, (2, 1))
    with (
        socket.create_server((VIP, 7000), family=socket.AF_INET6) as listener,
        socket.socket(socket.AF_INET6) as client,
    ):
        client.bind((CLIENT, 40000))
        client.connect((VIP, 7000))
        with listener.accept()[0]:
            for packet in (six(tcp(ACK)), error(reply())):
                outcome = world.observe(packet)
                assert outcome.verdict == "pass"
                assert outcome.events[ECHO, C.DELIVER_SOCKET] == 1
