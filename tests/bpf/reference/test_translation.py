# SPDX-License-Identifier: Apache-2.0
"""Translated packets are those that scapy builds with the other ends: all checksums right, all else as it was."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw
from support.examples import examples

from bpf.reference.translation import Ends, reset_for, translate, translate_error

PORTS = st.integers(1, 65535)


def ends(family: int) -> Any:
    addresses = (st.ip_addresses(v=4) if family == 4 else st.ip_addresses(v=6)).filter(lambda address: int(address) > 0)
    return st.builds(Ends, addresses, PORTS, addresses, PORTS)


PAIRS = st.sampled_from((4, 6)).flatmap(lambda family: st.tuples(ends(family), ends(family)))


def built(ends: Ends, transport: type[Packet], payload: bytes, ttl: int, **fields: Any) -> bytes:
    between = {"src": str(ends.source), "dst": str(ends.target)}
    ip = IP(id=7, ttl=ttl, **between) if ends.source.version == 4 else IPv6(hlim=ttl, **between)
    return bytes(ip / transport(sport=ends.source_port, dport=ends.target_port, **fields) / Raw(payload))


@examples(100)
@given(pair=PAIRS, udp=st.booleans(), payload=st.binary(max_size=5), ttl=st.integers(2, 255))
def test_translated_packets_are_as_if_sent_so(pair: tuple[Ends, Ends], udp: bool, payload: bytes, ttl: int) -> None:
    before, after = pair
    transport = UDP if udp else TCP
    assert translate(built(before, transport, payload, ttl), after) == built(after, transport, payload, ttl - 1)


FOUR = Ends(IPv4Address("10.1.0.2"), 40000, IPv4Address("10.99.0.1"), 80)
OTHER = Ends(IPv4Address("10.255.0.3"), 40001, IPv4Address("10.9.0.11"), 8080)
SIX = Ends(IPv6Address("2001:db8:1::2"), 40000, IPv6Address("2001:db8:99::1"), 80)
OTHER6 = Ends(IPv6Address("fd00:ff::3"), 40001, IPv6Address("fd00:9::11"), 8080)


def test_udp_without_checksum_stays_without() -> None:
    packet = built(FOUR, UDP, b"x", 64, chksum=0)
    assert translate(packet, OTHER) == built(OTHER, UDP, b"x", 63, chksum=0)


def test_udp_checksum_that_becomes_0_is_written_as_all_ones() -> None:
    """RFC 768: 0 would mean that there is none. The payload is chosen so that the sum is 0xffff."""
    plain = built(OTHER, UDP, bytes(2), 63)
    payload = plain[26:28]  # added to the sum, its complement makes all ones
    assert translate(built(FOUR, UDP, payload, 64), OTHER)[26:28] == b"\xff\xff"


def test_wrong_checksum_stays_wrong() -> None:
    right, wrong = built(FOUR, TCP, b"", 64), built(FOUR, TCP, b"", 64, chksum=0x1234)
    assert translate(right, OTHER)[:36] == translate(wrong, OTHER)[:36]
    assert translate(right, OTHER)[36:38] != translate(wrong, OTHER)[36:38]


def test_extension_headers_are_passed_over() -> None:
    def packet(ends: Ends, hops: int) -> bytes:
        ip = IPv6(src=str(ends.source), dst=str(ends.target), hlim=hops) / IPv6ExtHdrDestOpt()
        return bytes(ip / UDP(sport=ends.source_port, dport=ends.target_port) / Raw(b"x"))

    assert translate(packet(SIX, 64), OTHER6) == packet(OTHER6, 63)


@pytest.mark.parametrize("before", [[("MSS", 1460)], [("NOP", None), ("MSS", 1460)], [("WScale", 7), ("MSS", 1400)]])
@pytest.mark.parametrize("flags", ["S", "SA"])
def test_mss_is_clamped_wherever_its_option_is(before: list[Any], flags: str) -> None:
    after = [(name, 1300 if name == "MSS" else value) for name, value in before]
    packet = built(FOUR, TCP, b"", 64, flags=flags, options=before)
    assert translate(packet, OTHER, mss=1300) == built(OTHER, TCP, b"", 63, flags=flags, options=after)
    for other in ({"mss": 1460}, {}):
        assert translate(packet, OTHER, **other) == built(OTHER, TCP, b"", 63, flags=flags, options=before)
    late = built(FOUR, TCP, b"", 64, flags="A", options=before)
    assert translate(late, OTHER, mss=1300) == built(OTHER, TCP, b"", 63, flags="A", options=before)


@pytest.mark.parametrize("options", [b"\x02\x00\0\0", b"\x03\xff\x02\x04", b"\x01\x01\x01\x02", b"\x00\x02\x04\xff"])
def test_damaged_options_are_left(options: bytes) -> None:
    head = bytearray(built(FOUR, TCP, options, 64, flags="S"))
    head[32] = 6 << 4
    assert translate(bytes(head), OTHER, mss=100)[40:] == options


@pytest.mark.parametrize("transport", [TCP, UDP])
@pytest.mark.parametrize("quoted_bytes", [None, 8, 13])
def test_icmp_error_and_what_it_quotes(transport: type[Packet], quoted_bytes: int | None) -> None:
    """The error of a router; its quote is a packet of the other direction, whole or with the ports alone."""

    def error(outer: Ends, inner: Ends, ttl: int) -> bytes:
        size = None if quoted_bytes is None else 20 + quoted_bytes
        quote = Raw(built(inner, transport, b"abcd", 60)[:size])
        ip = IP(id=9, ttl=ttl, src=str(outer.source), dst=str(outer.target))
        return bytes(ip / ICMP(type=3, code=4, nexthopmtu=1400) / quote)

    router = Ends(IPv4Address("172.16.0.9"), 0, FOUR.target, 0)
    assert translate_error(error(router, FOUR.reversed(), 64), OTHER, OTHER.reversed()) == error(
        OTHER, OTHER.reversed(), 63
    )


def test_icmp6_error_and_what_it_quotes() -> None:
    def error(outer: Ends, inner: Ends, hops: int) -> bytes:
        quote = Raw(built(inner, TCP, bytes(100), 60))
        return bytes(IPv6(src=str(outer.source), dst=str(outer.target), hlim=hops) / ICMPv6PacketTooBig() / quote)

    router = Ends(IPv6Address("2001:db8:5::9"), 0, SIX.target, 0)
    assert translate_error(error(router, SIX.reversed(), 64), OTHER6, OTHER6.reversed()) == error(
        OTHER6, OTHER6.reversed(), 63
    )


@pytest.mark.parametrize("ends", [FOUR, SIX])
@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("A", {"flags": "R", "seq": 7000, "ack": 0}),
        ("SA", {"flags": "R", "seq": 7000, "ack": 0}),
        ("P", {"flags": "RA", "seq": 0, "ack": 5003}),
        ("S", {"flags": "RA", "seq": 0, "ack": 5004}),
        ("F", {"flags": "RA", "seq": 0, "ack": 5004}),
    ],
)
def test_reset_answers_as_the_standard_has_it(ends: Ends, flags: str, answer: dict[str, Any]) -> None:
    packet = built(ends, TCP, b"abc", 50, flags=flags, seq=5000, ack=7000, options=[("NOP", None)] * 4)
    expected = built(ends.reversed(), TCP, b"", 64, window=0, **answer)
    if ends.source.version == 4:
        between = {"src": str(ends.target), "dst": str(ends.source)}
        tcp = TCP(sport=ends.target_port, dport=ends.source_port, window=0, **answer)
        expected = bytes(IP(id=0, flags="DF", ttl=64, **between) / tcp)
    assert reset_for(packet) == expected


def test_no_reset_answers_a_reset() -> None:
    assert reset_for(built(FOUR, TCP, b"", 64, flags="RA")) is None
    assert reset_for(built(SIX, TCP, b"", 64, flags="R")) is None
