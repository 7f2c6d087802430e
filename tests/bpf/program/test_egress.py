# SPDX-License-Identifier: Apache-2.0
"""The tc egress program on frames in memory: which MSS it lowers, the checksum, which frames it leaves unmodified, and
which it drops.

packets.py builds the expected frame from the start with the lower MSS, checksum included.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import packets
from support.examples import examples
from support.packets import ACK, SYN
from support.programs import PROGRAMS
from support.testrun import Runner

from bpf.compiler.build import build_program
from bpf.compiler.source import EgressOptions
from bpf.kernel.pin import open_pin
from bpf.layout.counter import Counter
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.maps.maps import Maps

TC_ACT_UNSPEC, TC_ACT_SHOT = 0xFFFFFFFF, 2
LIMIT = 1432
VIP, VIP6, CLIENT, CLIENT6 = "10.99.0.1", "2001:db8:99::1", "10.1.0.2", "2001:db8:1::2"
PORT = 443
LOW = struct.pack("!BBH", 2, 4, LIMIT)
MSS = struct.pack("!BBH", 2, 4, 1460)
NOP, SACK, WINDOW = b"\1", b"\4\2", b"\3\3\7"
TIMES = struct.pack("!BBII", 8, 10, 123_456_789, 0)


@dataclass
class Clamp:
    """The program, with LIMIT for the service."""

    runner: Runner
    maps: Maps

    def after(self, frame: bytes) -> bytes:
        verdict, frame = self.runner.run(frame)
        assert verdict == TC_ACT_UNSPEC
        return frame


@pytest.fixture(scope="module")
def clamp(bpffs: Path) -> Iterator[Clamp]:
    folder = bpffs / "clamp"
    folder.mkdir()
    maps = Maps.open(folder, 4096)
    build_program(folder, folder / "program", EgressOptions(), cache_dir=PROGRAMS)
    fd = open_pin(folder / "program")
    assert fd is not None
    maps.mss.write({ServiceKey(ip_address(vip), Protocol.TCP, PORT): LIMIT for vip in (VIP, VIP6)})
    for vip in (VIP, VIP6):
        maps.services.write(ServiceKey(ip_address(vip), Protocol.TCP, PORT), ServiceEntry(1, True))
    maps.services.write(ServiceKey(ip_address(VIP), Protocol.UDP, 0), ServiceEntry(2, True))
    maps.node_prefixes.write([ip_network("10.0.0.0/24"), ip_network("2001:db8:0:1::/64")])
    yield Clamp(Runner(fd), maps)
    os.close(fd)
    maps.close()
    shutil.rmtree(folder)


def padded(options: bytes) -> bytes:
    return options + bytes(-len(options) % 4)


def segment(options: bytes, *, six: bool = False, flags: int = SYN | ACK, port: int = PORT, **more: str | int) -> bytes:
    """A SYN-ACK of the service."""
    ends = {"src": VIP6, "dst": CLIENT6} if six else {"src": VIP, "dst": CLIENT}
    fields = {**ends, "sport": port, "dport": 40_000, "flags": flags, "doff": 5 + len(options) // 4, **more}
    return packets.tcp(options, **fields)  # type: ignore[arg-type]


def frame(
    tcp: bytes, *, six: bool = False, tags: tuple[int, ...] = (), src: str | None = None, **more: object
) -> bytes:
    """Return the frame that carries a segment; `more`: fields of the IP header, `tags`: EtherTypes of VLAN tags."""
    ends = {"src": src or (VIP6 if six else VIP), "dst": CLIENT6 if six else CLIENT, "protocol": packets.TCP}
    build = packets.ipv6 if six else packets.ipv4
    payload, kind = build(tcp, **{**ends, **more}), packets.IPV6 if six else packets.IPV4  # type: ignore[operator]
    for tag in reversed(tags):
        payload, kind = packets.vlan(payload, 7, kind), tag
    return packets.ethernet(payload, dst=packets.ROUTER, src=packets.HERE, ethertype=kind)


CARRIERS: dict[str, dict[str, object]] = {
    "IPv4": {},
    "IPv4 with options": {"options": NOP * 12},
    "IPv4 with the most options": {"options": NOP * 40},
    "IPv6": {"six": True},
    "a tag": {"tags": (packets.VLAN,)},
    "two tags": {"tags": (packets.QINQ, packets.VLAN)},
    "IPv6 and a tag": {"six": True, "tags": (packets.VLAN,)},
}
LAYOUTS = {
    "alone": (MSS, LOW),
    "first, as Linux writes it": (MSS + SACK + TIMES + NOP + WINDOW, LOW + SACK + TIMES + NOP + WINDOW),
    "at an odd place": (NOP + MSS + WINDOW, NOP + LOW + WINDOW),
    "at another odd place": (WINDOW + MSS + NOP, WINDOW + LOW + NOP),
    "after others": (SACK + TIMES + MSS, SACK + TIMES + LOW),
    "last of 40 bytes": (TIMES * 3 + NOP * 6 + MSS, TIMES * 3 + NOP * 6 + LOW),
    "after 36 no-operations": (NOP * 36 + MSS, NOP * 36 + LOW),
    "after one of unknown kind": (b"\xfe\5abc" + MSS, b"\xfe\5abc" + LOW),
    "twice": (MSS + b"\2\4\xff\xff", LOW + LOW),
    "the greatest": (b"\2\4\xff\xff", LOW),
    "one too many": (struct.pack("!BBH", 2, 4, LIMIT + 1), LOW),
}
UNMODIFIED = {
    "no options": b"",
    "no MSS": SACK + TIMES + NOP * 3,
    "just small enough": LOW,
    "smaller": b"\2\4\2\x18",
    "zero": b"\2\4\0\0",
    "after the end of the list": b"\0" + MSS,
    "after one without length": b"\x05\0" + MSS,
    "after one of length 1": b"\x05\1" + MSS,
    "after one longer than all": b"\xfe\xff" + MSS,
    "of length 3": b"\2\3\5" + NOP,
    "of length 6": b"\2\6\5\xb4\5\xb4",
    "cut after its head": NOP * 2 + b"\2\4",
    "cut in its value": NOP + b"\2\4\5",
    "cut in its head": NOP * 3 + b"\2",
    "40 no-operations": NOP * 40,
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mss_is_lowered_anywhere(clamp: Clamp, layout: str, carrier: str) -> None:
    before, after = (padded(options) for options in LAYOUTS[layout])
    how = CARRIERS[carrier]
    six = bool(how.get("six"))
    assert clamp.after(frame(segment(before, six=six), **how)) == frame(segment(after, six=six), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("layout", UNMODIFIED)
def test_frame_is_unmodified(clamp: Clamp, layout: str, carrier: str) -> None:
    how = CARRIERS[carrier]
    sent = frame(segment(padded(UNMODIFIED[layout]), six=bool(how.get("six"))), **how)  # type: ignore[arg-type]
    assert clamp.after(sent) == sent


def test_only_syn_acks_are_changed(clamp: Clamp) -> None:
    for flags in range(256):
        sent = frame(segment(MSS, flags=flags))
        expected = frame(segment(LOW, flags=flags)) if flags & (SYN | ACK) == SYN | ACK else sent
        assert clamp.after(sent) == expected, flags


def test_only_the_services_syn_acks_are_changed(clamp: Clamp) -> None:
    """Another port, another address, another protocol, another direction."""
    for sent in (
        frame(segment(MSS, port=444)),
        frame(segment(MSS, src="10.99.0.2"), src="10.99.0.2"),
        frame(segment(MSS, six=True, src="2001:db8:99::2"), six=True, src="2001:db8:99::2"),
        frame(segment(MSS, src=CLIENT, dst=VIP, sport=40_000, dport=PORT), src=CLIENT, dst=VIP),
        frame(segment(MSS), protocol=packets.UDP),
        frame(segment(MSS), tags=(packets.VLAN, packets.VLAN, packets.VLAN)),
    ):
        assert clamp.after(sent) == sent


def test_incomplete_or_malformed_packet_is_unmodified(clamp: Clamp) -> None:
    tcp, tcp6 = segment(MSS), segment(MSS, six=True)
    for sent in (
        frame(tcp, fragment=packets.MORE_FRAGMENTS),
        frame(tcp, fragment=1),
        frame(tcp, ihl=4),
        frame(tcp, ihl=0),
        frame(packets.fragment6(tcp6, packets.TCP), six=True, protocol=44),
        frame(packets.extension(tcp6, packets.TCP), six=True, protocol=60),
        *(frame(segment(MSS, doff=doff)) for doff in range(6)),
    ):
        assert clamp.after(sent) == sent


@pytest.mark.parametrize("carrier", CARRIERS)
def test_frame_cut_at_any_byte(clamp: Clamp, carrier: str) -> None:
    how = CARRIERS[carrier]
    six = bool(how.get("six"))
    options = [NOP + one + WINDOW + TIMES + NOP + NOP for one in (MSS, LOW)]
    sent, lowered = (frame(segment(o, six=six), **how) for o in options)  # type: ignore[arg-type]
    seen = {True: 0, False: 0}
    least = 14 if how.get("tags") else 54 if six else 34  # the kernel tests no packet without an IP header
    for length in range(least, len(sent) + 1):
        after = clamp.after(sent[:length])
        assert after in (sent[:length], lowered[:length]), length
        seen[after == lowered[:length] != sent[:length]] += 1
    assert all(seen.values())


def test_key_with_a_port_goes_before_any_port(clamp: Clamp) -> None:
    own, every = (ServiceKey(ip_address(VIP), Protocol.TCP, port) for port in (PORT, 0))
    before = clamp.maps.mss.read()
    try:
        clamp.maps.mss.write({own: 1000, every: LIMIT})
        assert clamp.maps.mss.read() == {own: 1000, every: LIMIT}
        assert clamp.after(frame(segment(MSS))) == frame(segment(b"\2\4\3\xe8"))
        assert clamp.after(frame(segment(MSS, port=7))) == frame(segment(LOW, port=7))
        sent = frame(segment(MSS, six=True), six=True)
        assert clamp.after(sent) == sent
        clamp.maps.mss.write({})
        assert clamp.after(frame(segment(MSS))) == frame(segment(MSS))
    finally:
        clamp.maps.mss.write(before)


def lowered(options: bytes) -> bytes:
    """Return the options with a lower MSS, by a walk as in RFC 9293 section 3.1."""
    out, rest = b"", options
    while rest and rest[0] != 0:
        if rest[0] == 1:
            out, rest = out + rest[:1], rest[1:]
            continue
        length = rest[1] if len(rest) > 1 else 0
        if not 2 <= length <= len(rest):
            break
        one, rest = rest[:length], rest[length:]
        if one[:2] == b"\2\4":
            one = one[:2] + min(one[2:], struct.pack("!H", LIMIT))
        out += one
    return out + rest


ONE = st.one_of(
    st.sampled_from([NOP, SACK, WINDOW, TIMES, MSS, b"\0", b"\2\4\xff\xff", b"\2\4\0\1"]),
    st.binary(min_size=1, max_size=6),
)


@examples(1500)
@given(st.lists(ONE, max_size=40), st.booleans())
def test_any_options(clamp: Clamp, options: list[bytes], six: bool) -> None:
    text = padded(b"".join(options)[:40])
    expected = frame(segment(lowered(text), six=six), six=six)
    assert clamp.after(frame(segment(text, six=six), six=six)) == expected


@examples(1500)
@given(st.binary(min_size=54, max_size=200))
def test_random_frame_is_unmodified(clamp: Clamp, noise: bytes) -> None:
    assert clamp.after(noise) == noise


# What only the XDP program may send

NODE, NODE6, OTHER, OTHER6 = "10.0.0.12", "2001:db8:0:1::12", "10.7.0.12", "2001:db8:7::12"
HERE, HERE6 = "10.0.0.11", "2001:db8:0:1::11"


def client_packet(vip: str = VIP, port: int = PORT, protocol: int = packets.TCP) -> bytes:
    six = ":" in vip
    ends = {"src": CLIENT6 if six else CLIENT, "dst": vip}
    make = packets.tcp if protocol == packets.TCP else packets.udp
    return (packets.ipv6 if six else packets.ipv4)(
        make(**ends, sport=40_000, dport=port),
        **ends,
        protocol=protocol,  # type: ignore[operator,arg-type]
    )


def outer(payload: bytes, protocol: int, to: str = NODE, tags: tuple[int, ...] = (), **more: object) -> bytes:
    """Return the frame of a packet from this node."""
    six = ":" in to
    packet = (packets.ipv6 if six else packets.ipv4)(
        payload,
        src=HERE6 if six else HERE,
        dst=to,
        protocol=protocol,
        **more,  # type: ignore[operator,arg-type]
    )
    kind = packets.IPV6 if six else packets.IPV4
    for tag in reversed(tags):
        packet, kind = packets.vlan(packet, 7, kind), tag
    return packets.ethernet(packet, dst=packets.ROUTER, src=packets.HERE, ethertype=kind)


IPIP, SIX = 4, 41
FORGED = {
    "gue": outer(packets.gue(client_packet()), packets.UDP),
    "gue over IPv6": outer(packets.gue(client_packet()), packets.UDP, NODE6),
    "gue with a tag": outer(packets.gue(client_packet()), packets.UDP, tags=(packets.VLAN,)),
    "gue after options": outer(packets.gue(client_packet()), packets.UDP, options=NOP * 8),
    "gue, for a service of another node": outer(packets.gue(client_packet("10.99.0.77")), packets.UDP),
    "ipip": outer(client_packet(), IPIP),
    "ipip, any port or protocol": outer(client_packet(port=7, protocol=packets.UDP), IPIP),
    "6in4": outer(client_packet(VIP6), SIX),
    "4in6": outer(client_packet(), IPIP, NODE6),
    "6in6": outer(client_packet(VIP6), SIX, NODE6),
    "a marker": packets.ethernet(client_packet(), dst=packets.ROUTER, src=packets.marker(1, 11)),
}
OWN = {
    "TCP to a node": outer(packets.tcp(src=HERE, dst=NODE, sport=40_000, dport=6080), packets.TCP),
    "UDP to a node": outer(packets.udp(b"x" * 64, src=HERE, dst=NODE, sport=6080, dport=4742), packets.UDP),
    "gue to another network": outer(packets.gue(client_packet()), packets.UDP, OTHER),
    "gue to another network over IPv6": outer(packets.gue(client_packet()), packets.UDP, OTHER6),
    "ipip to another network": outer(client_packet(), IPIP, OTHER),
    "an overlay's ipip": outer(client_packet("172.16.1.2", 80), IPIP),
    "an overlay's 6in4": outer(client_packet("fd00:7::1", 80), SIX),
    "an overlay's ipip, cut": outer(client_packet()[:19], IPIP),
    "another locally administered MAC": packets.ethernet(
        client_packet(), dst=packets.ROUTER, src=packets.mac("02:4c:43:01:00:0b")
    ),
    "no IP": packets.ethernet(bytes(46), dst=packets.ROUTER, src=packets.HERE, ethertype=0x0806),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_only_the_xdp_program_may_send_is_dropped_and_counted(clamp: Clamp, name: str) -> None:
    before = clamp.maps.counters.read()[0][Counter.DROP_FORGED.name.lower()]
    assert clamp.runner.run(FORGED[name])[0] == TC_ACT_SHOT
    assert clamp.maps.counters.read()[0][Counter.DROP_FORGED.name.lower()] == before + 1


@pytest.mark.parametrize("name", OWN)
def test_a_nodes_own_packets_leave(clamp: Clamp, name: str) -> None:
    assert clamp.after(OWN[name]) == OWN[name]
