# SPDX-License-Identifier: Apache-2.0
"""Packets through the real program, as data: the packet in, the packet out, the counters.

Each case states all that may happen: the verdict, every counter that rises (any other that rises is a failure), and
the packet afterwards: two new MACs if it was forwarded, else unmodified.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from support import packets
from support.packets import ACK, FIN, HERE, ROUTER, RST, SYN

from bpf.layout.counter import Counter
from bpf.layout.service import Protocol

VIP, VIP_ANY, ELSEWHERE = "10.99.0.1", "10.99.0.2", "10.98.0.1"
CLIENT = "10.1.0.2"

# Slots. Every service but EMPTY has chain 2, 3, 4, 5 (this node is 1) unless a case says otherwise.
NONE, ECHO, DNS, ANY, DOWN, EMPTY, BARE = 0, 1, 2, 3, 4, 5, 6


def frame(payload: bytes, hop: int = 0, prev: int = 9, dst: bytes = HERE, ethertype: int = packets.IPV4) -> bytes:
    src = packets.marker(hop, 10 + prev) if hop else ROUTER
    return packets.ethernet(payload, dst=dst, src=src, ethertype=ethertype)


def tcp4(flags: int = SYN, dport: int = 7000, dst: str = VIP, ip: dict[str, Any] | None = None, **more: Any) -> bytes:
    segment = packets.tcp(src=CLIENT, dst=dst, sport=40000, dport=dport, flags=flags, **more)
    return packets.ipv4(segment, src=CLIENT, dst=dst, protocol=packets.TCP, **(ip or {}))


def udp4(dport: int = 53, dst: str = VIP, ip: dict[str, Any] | None = None, **more: Any) -> bytes:
    datagram = packets.udp(b"question", src=CLIENT, dst=dst, sport=40000, dport=dport, **more)
    return packets.ipv4(datagram, src=CLIENT, dst=dst, protocol=packets.UDP, **(ip or {}))


def quoting(quoted: bytes, kind: int = 3, code: int = 4, dst: str = VIP) -> bytes:
    """Return a router's ICMP error about a packet that a server sent."""
    message = packets.icmp(quoted, kind=kind, code=code, rest=1400)
    return packets.ipv4(message, src="10.7.7.7", dst=dst, protocol=packets.ICMP)


def reply(protocol: int = packets.TCP, sport: int = 7000, src: str = VIP, cut: int = 28, **ip: Any) -> bytes:
    """Return the first bytes of a server's packet to the client, as an ICMP error quotes it."""
    ports = {"src": src, "dst": CLIENT, "sport": sport, "dport": 40000}
    inner = packets.udp(**ports) if protocol == packets.UDP else packets.tcp(flags=ACK, **ports)
    return packets.ipv4(inner, src=src, dst=CLIENT, protocol=protocol, **ip)[:cut]


@dataclass(frozen=True)
class Case:
    what: str
    packet: bytes
    verdict: str
    slot: int
    events: tuple[Counter, ...]
    to: int | None = None
    hop: int = 0
    chain: tuple[int, ...] = (2, 3, 4, 5)
    no_mac: tuple[int, ...] = field(default=())


C = Counter
NO_SERVICE = [
    Case("frame for another node", frame(tcp4(), dst=ROUTER), "pass", NONE, (C.PASS_OTHER_MAC,)),
    Case("broadcast", frame(tcp4(), dst=b"\xff" * 6), "drop", NONE, (C.DROP_GROUP_MAC,)),
    Case("multicast", frame(tcp4(), dst=packets.mac("01:00:5e:00:00:01")), "drop", NONE, (C.DROP_GROUP_MAC,)),
    Case("ARP", frame(b"\0" * 28, ethertype=0x0806), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("IPv6", frame(b"\x60" + b"\0" * 59, ethertype=0x86DD), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("frame that ends after Ethernet", frame(b"")[:14], "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("frame that ends within IPv4", frame(tcp4())[:33], "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("TCP to an address of no service", frame(tcp4(dst=ELSEWHERE)), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("forwarded, to an address of no service", frame(tcp4(dst=ELSEWHERE), hop=1), "pass", NONE,
         (C.PASS_NO_SERVICE,)),
    Case("fragment to an address of no service", frame(tcp4(dst=ELSEWHERE, ip={"fragment": 5})), "pass", NONE,
         (C.PASS_NO_SERVICE,)),
    Case("bad length to an address of no service", frame(tcp4(dst=ELSEWHERE, ip={"total": 19})), "pass", NONE,
         (C.PASS_NO_SERVICE,)),
    Case("TCP to a port of the VIP that is not served", frame(tcp4(dport=22)), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("TCP to the port of the UDP service", frame(tcp4(dport=53)), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("UDP to the port of the TCP service", frame(udp4(dport=7000)), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("port 0", frame(tcp4(dport=0)), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("ICMP echo to the VIP: answered here", frame(packets.ipv4(packets.icmp(b"ping" * 8, kind=8), src=CLIENT,
         dst=VIP, protocol=packets.ICMP)), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("another protocol to the VIP (GRE)", frame(packets.ipv4(b"\0" * 40, src=CLIENT, dst=VIP, protocol=47)), "pass",
         NONE, (C.PASS_NO_SERVICE,)),
    Case("UDP fragment where the VIP has no UDP", frame(udp4(dst=VIP_ANY, ip={"fragment": 3})), "pass", NONE,
         (C.PASS_NO_SERVICE,)),
]  # fmt: skip

DROPPED = [
    Case("header length below 20", frame(tcp4(ip={"ihl": 4})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("header length beyond the packet", frame(tcp4(ip={"ihl": 15})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("IP version 6 in an IPv4 frame", frame(tcp4(ip={"version": 6})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("total length below the header's", frame(tcp4(ip={"total": 19})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("total length beyond the frame", frame(tcp4(ip={"total": 1500})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("total length that cuts the TCP header", frame(tcp4(ip={"total": 39})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("TCP data offset below 20", frame(tcp4(doff=4)), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("TCP data offset beyond the packet", frame(tcp4(doff=6)), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("frame that ends within TCP", frame(tcp4())[:53], "drop", NONE, (C.DROP_MALFORMED,)),
    Case("UDP length below 8", frame(udp4(length=7)), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("UDP length beyond the packet", frame(udp4(length=17)), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("total length that cuts the UDP header", frame(udp4(ip={"total": 27})), "drop", NONE, (C.DROP_MALFORMED,)),
    Case("ACK with one hop too many", frame(tcp4(ACK), hop=10), "drop", ECHO, (C.RX_FORWARDED, C.DROP_HOP_LIMIT)),
    Case("malformed, to a service on any port", frame(tcp4(dst=VIP_ANY, doff=3)), "drop", ANY, (C.DROP_MALFORMED,)),
]  # fmt: skip

FIRST = (C.RX, C.FORWARD_FIRST)
AGAIN = (C.RX_FORWARDED, C.FORWARD_AGAIN)
FORWARDED = [
    Case("SYN at an ingress outside the chain", frame(tcp4()), "tx", ECHO, FIRST, to=2, hop=1),
    Case("ACK at an ingress outside the chain", frame(tcp4(ACK)), "tx", ECHO, FIRST, to=2, hop=1),
    Case("RST at an ingress outside the chain", frame(tcp4(RST)), "tx", ECHO, FIRST, to=2, hop=1),
    Case("SYN-ACK opens nothing", frame(tcp4(SYN | ACK)), "tx", ECHO, FIRST, to=2, hop=1),
    Case("data", frame(tcp4(ACK, payload=b"x" * 1400)), "tx", ECHO, FIRST, to=2, hop=1),
    Case("IPv4 options", frame(tcp4(ip={"options": b"\x94\x04\0\0"})), "tx", ECHO, FIRST, to=2, hop=1),
    Case("as many IPv4 options as fit", frame(tcp4(ip={"options": b"\x01" * 40})), "tx", ECHO, FIRST, to=2, hop=1),
    Case("TTL 1 stays: it is one hop for IP", frame(tcp4(ip={"ttl": 1})), "tx", ECHO, FIRST, to=2, hop=1),
    Case("padding beyond the total length", frame(tcp4()) + b"pad" * 10, "tx", ECHO, FIRST, to=2, hop=1),
    Case("UDP at an ingress", frame(udp4()), "tx", DNS, FIRST, to=2, hop=1),
    Case("a service on any port", frame(tcp4(dst=VIP_ANY, dport=4711)), "tx", ANY, FIRST, to=2, hop=1),
    Case("its own port before any port", frame(tcp4(dst=VIP_ANY, dport=7000)), "tx", DOWN, FIRST, to=2, hop=1),
    Case("SYN straight to the second of the chain", frame(tcp4()), "tx", ECHO, FIRST, to=2, hop=1, chain=(2, 1, 3)),
    Case("ACK straight to the owner: not here, so the second", frame(tcp4(ACK)), "tx", ECHO, FIRST, to=2, hop=1,
         chain=(1, 2, 3)),
    Case("marker with hop 0 came from the router", packets.ethernet(tcp4(), dst=HERE, src=packets.marker(0, 12)), "tx",
         ECHO, FIRST, to=2, hop=1),
    Case("a MAC one bit from a marker", packets.ethernet(tcp4(), dst=HERE, src=packets.mac("02:4c:43:01:00:0c")), "tx",
         ECHO, FIRST, to=2, hop=1),
    Case("ACK forwarded to the owner: not here, so the second", frame(tcp4(ACK), hop=1), "tx", ECHO, AGAIN, to=2, hop=2,
         chain=(1, 2, 3)),
    Case("never back to the sender", frame(tcp4(ACK), hop=1, prev=2), "tx", ECHO, AGAIN, to=3, hop=2, chain=(1, 2, 3)),
    Case("ACK at the second place in its turn: the third", frame(tcp4(ACK), hop=2, prev=2), "tx", ECHO, AGAIN, to=3,
         hop=3, chain=(2, 1, 3)),
    Case("ACK at the second place, not from the first: the first", frame(tcp4(ACK), hop=2, prev=4), "tx", ECHO, AGAIN,
         to=2, hop=3, chain=(2, 1, 3)),
    Case("ACK at the second place too soon: the first", frame(tcp4(ACK), hop=1), "tx", ECHO, AGAIN, to=2, hop=2,
         chain=(2, 1, 3)),
    Case("ACK outside the chain at hop 1: the first", frame(tcp4(ACK), hop=1), "tx", ECHO, AGAIN, to=2, hop=2),
    Case("ACK outside the chain at hop 2, from the first: the second", frame(tcp4(ACK), hop=2, prev=2), "tx", ECHO,
         AGAIN, to=3, hop=3),
    Case("ACK outside the chain at hop 2, not from the first: the first", frame(tcp4(ACK), hop=2), "tx", ECHO, AGAIN,
         to=2, hop=3),
    Case("SYN forwarded to a node that is not up for it", frame(tcp4(dport=7000, dst=VIP_ANY), hop=1), "tx", DOWN,
         AGAIN, to=2, hop=2),
    Case("the last hop", frame(tcp4(ACK), hop=9), "tx", ECHO, AGAIN, to=2, hop=10),
    Case("chain of eight", frame(tcp4(ACK), hop=7, prev=8), "tx", ECHO, AGAIN, to=6, hop=8,
         chain=(2, 3, 4, 5, 7, 8, 1, 6)),
    Case("owner without a MAC: the next", frame(tcp4()), "tx", ECHO, (C.RX, C.SKIP_NO_MAC, C.FORWARD_FIRST), to=3,
         hop=1, no_mac=(2,)),
    Case("TCP error in flight to the client", frame(quoting(reply())), "tx", ECHO, (*FIRST, C.RX_ICMP_ERROR), to=2,
         hop=1),
    Case("time exceeded", frame(quoting(reply(), kind=11, code=0)), "tx", ECHO, (*FIRST, C.RX_ICMP_ERROR), to=2, hop=1),
    Case("parameter problem", frame(quoting(reply(), kind=12)), "tx", ECHO, (*FIRST, C.RX_ICMP_ERROR), to=2, hop=1),
    Case("error quoting IPv4 options", frame(quoting(reply(options=b"\x01" * 8, cut=36))), "tx", ECHO,
         (*FIRST, C.RX_ICMP_ERROR), to=2, hop=1),
    Case("error about UDP", frame(quoting(reply(packets.UDP, sport=53))), "tx", DNS, (*FIRST, C.RX_ICMP_ERROR), to=2,
         hop=1),
    Case("forwarded error: not here, so on", frame(quoting(reply()), hop=1), "tx", ECHO, (*AGAIN, C.RX_ICMP_ERROR),
         to=2, hop=2),
]  # fmt: skip

DELIVERED = [
    Case("SYN at its owner", frame(tcp4()), "pass", ECHO, (C.RX, C.DELIVER_OWNER), chain=(1, 2)),
    Case("SYN with data (fast open) at its owner", frame(tcp4(payload=b"hello")), "pass", ECHO,
         (C.RX, C.DELIVER_OWNER), chain=(1, 2)),
    Case("SYN forwarded to its owner", frame(tcp4(), hop=1), "pass", ECHO, (C.RX_FORWARDED, C.DELIVER_OWNER),
         chain=(1, 2)),
    Case("SYN forwarded to another that is up", frame(tcp4(), hop=1), "pass", ECHO,
         (C.RX_FORWARDED, C.DELIVER_FORWARDED_SYN)),
    Case("SYN forwarded twice, to one not up", frame(tcp4(dst=VIP_ANY, dport=7000), hop=2), "pass", DOWN,
         (C.RX_FORWARDED, C.DELIVER_FORWARDED_SYN)),
    Case("SYN forwarded too often", frame(tcp4(), hop=255), "pass", ECHO, (C.RX_FORWARDED, C.DELIVER_FORWARDED_SYN)),
    Case("UDP at its owner", frame(udp4()), "pass", DNS, (C.RX, C.DELIVER_UDP), chain=(1, 2)),
    Case("UDP forwarded to another", frame(udp4(), hop=1), "pass", DNS, (C.RX_FORWARDED, C.DELIVER_UDP)),
    Case("ACK at the only member", frame(tcp4(ACK)), "pass", ECHO, (C.RX, C.DELIVER_ONLY_NODE), chain=(1,)),
    Case("ACK of an unknown connection, at the end of the chain", frame(tcp4(ACK), hop=2, prev=2), "pass", ECHO,
         (C.RX_FORWARDED, C.DELIVER_CHAIN_END), chain=(2, 1)),
    Case("FIN of an unknown connection, at the end of the chain", frame(tcp4(FIN | ACK), hop=3, prev=3), "pass", ECHO,
         (C.RX_FORWARDED, C.DELIVER_CHAIN_END), chain=(2, 3, 1)),
    Case("the only other node sent it", frame(tcp4(ACK), hop=1, prev=2), "pass", ECHO,
         (C.RX_FORWARDED, C.DELIVER_CHAIN_END), chain=(1, 2)),
    Case("a row without members", frame(tcp4(dport=8000)), "pass", EMPTY, (C.RX, C.PASS_NO_MEMBER), chain=()),
    Case("ACK to a row without members", frame(tcp4(ACK, dport=8000), hop=3), "pass", EMPTY,
         (C.RX_FORWARDED, C.PASS_NO_MEMBER), chain=()),
    Case("a service without a table", frame(tcp4(dport=9000)), "pass", BARE, (C.RX, C.PASS_NO_MEMBER)),
    Case("no MAC of any other node", frame(tcp4(ACK)), "pass", ECHO, (C.RX, C.SKIP_NO_MAC, C.DELIVER_CHAIN_END),
         chain=(2,), no_mac=(2,)),
    Case("error about an unknown connection", frame(quoting(reply()), hop=2, prev=2), "pass", ECHO,
         (C.RX_FORWARDED, C.RX_ICMP_ERROR, C.DELIVER_CHAIN_END), chain=(2, 1)),
    Case("error quoting another sender", frame(quoting(reply(src="10.99.0.9"))), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("error quoting a port that is not served", frame(quoting(reply(sport=81))), "pass", NONE,
         (C.PASS_NO_SERVICE,)),
    Case("error quoting a later fragment", frame(quoting(reply(fragment=4))), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("error quoting too little", frame(quoting(reply(cut=23)))[:65], "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("error quoting no IPv4", frame(quoting(reply(version=6))), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("error quoting a bad header length", frame(quoting(reply(ihl=3))), "pass", NONE, (C.PASS_NO_SERVICE,)),
    Case("redirect is no error", frame(quoting(reply(), kind=5)), "pass", NONE, (C.PASS_NO_SERVICE,)),
]  # fmt: skip

CASES = [*NO_SERVICE, *DROPPED, *FORWARDED, *DELIVERED]


@pytest.fixture(scope="module")
def world(program: Any) -> Any:
    """The services of the cases; EMPTY and BARE differ in having a table."""
    program.serve(ECHO, Protocol.TCP, 7000)
    program.serve(DNS, Protocol.UDP, 53)
    program.serve(ANY, Protocol.TCP, 0, vip=VIP_ANY)
    program.serve(DOWN, Protocol.TCP, 7000, vip=VIP_ANY, up=False)
    program.serve(EMPTY, Protocol.TCP, 8000)
    program.serve(BARE, Protocol.TCP, 9000)
    return program


@pytest.mark.parametrize("tag", [b"", b"\x81\x00\x20\x64"], ids=["plain", "tagged"])
@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_packet(case: Case, tag: bytes, world: Any) -> None:
    """With a VLAN tag too, where another copy of the program's code handles the packet."""
    packet = case.packet[:12] + tag + case.packet[12:]
    if case.slot not in (NONE, BARE):
        world.set_chain(case.slot, case.chain)
    for index in case.no_mac:
        world.know_node(index, has_mac=False)
    try:
        outcome = world.observe(packet)
    finally:
        for index in case.no_mac:
            world.know_node(index)

    assert outcome.verdict == case.verdict
    assert outcome.events == {(case.slot, event): 1 for event in case.events}
    if case.to is None:
        assert outcome.packet == packet
    else:
        macs = packets.mac(f"02:00:00:00:00:{case.to:02x}") + packets.marker(case.hop, 11)
        assert outcome.packet == macs + packet[12:]


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.what for case in CASES}) == len(CASES)


def test_truncated_at_any_byte_is_never_forwarded(world: Any) -> None:
    """A part of it passes unmodified or is dropped with a reason; only the whole packet is forwarded."""
    world.set_chain(ECHO, (2, 3))
    for whole in (
        frame(tcp4(ACK, payload=b"data" * 5, ip={"options": b"\x01" * 4})),
        frame(quoting(reply(cut=20 + 8))),
    ):
        assert world.send(whole)[0] == "tx"
        for length in range(14, len(whole)):
            verdict, after = world.send(whole[:length])
            assert verdict in ("pass", "drop"), length
            assert after == whole[:length]
