# SPDX-License-Identifier: Apache-2.0
"""Which packets are plain: with the tail calls taken away, the program handles those and no others.

That both programs do the same with a plain packet is proven in tests/proof.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from support import packets
from support.packets import ACK, HERE, ROUTER, SYN

from bpf.compiler.build import tail_calls_pin
from bpf.kernel import bpf_map
from bpf.kernel.libbpf import check, library
from bpf.kernel.pin import open_pin
from bpf.layout.conf import OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoKind, EchoMessage
from bpf.layout.sampling import SampleFilter
from bpf.layout.service import Forward, Protocol
from bpf.maps.pinned_map import pack_index

VIP, VIP6, CLIENT, CLIENT6 = "10.99.0.1", "2001:db8:99::1", "10.1.0.2", "2001:db8:1::2"
OUTSIDE, OWNER, TUNNEL = 7000, 7001, 7002
"""Ports of TCP services: owned by another node, by this one, and by another behind a tunnel."""


@pytest.fixture(scope="module")
def world(program: Any) -> Iterator[Any]:
    """The program without its tail calls."""
    chains = {OUTSIDE: (2, 3), OWNER: (1, 2), TUNNEL: (2, 3)}
    for number, (port, chain) in enumerate(chains.items(), 1):
        for slot, vip in ((number, VIP), (number + 3, VIP6)):
            program.set_chain(slot, chain)
            forward = Forward.IPIP if port == TUNNEL else Forward.L2
            program.serve(slot, Protocol.TCP, port, vip=vip, forward=forward)
    program.set_chain(7, (1, 2))
    program.serve(7, Protocol.UDP, 53)
    calls = open_pin(tail_calls_pin(program.pin))
    assert calls is not None
    general = bpf_map.lookup(calls, bytes(4), 4)
    assert general is not None
    fd = check(library().bpf_prog_get_fd_by_id(int.from_bytes(general, "little")), "cannot open the general program")
    bpf_map.delete(calls, bytes(4))
    program.maps.conf.write(replace(program.maps.conf.read(), cluster=4242, echo_port=4742))
    yield program
    bpf_map.update(calls, bytes(4), pack_index(fd))
    os.close(fd)
    os.close(calls)


def segment(port: int = OUTSIDE, flags: int = SYN, size: int = 20, **ip: Any) -> bytes:
    ends = {"src": CLIENT, "dst": VIP}
    return packets.ipv4(
        packets.tcp(bytes(size), sport=40000, dport=port, flags=flags, **ends), protocol=packets.TCP, **ends, **ip
    )


def segment6(port: int = OUTSIDE, following: int | None = None) -> bytes:
    ends = {"src": CLIENT6, "dst": VIP6}
    payload = packets.tcp(bytes(20), sport=40000, dport=port, flags=SYN, **ends)
    if following is not None:
        payload = packets.extension(payload, packets.TCP, length=0)
    return packets.ipv6(payload, protocol=packets.TCP if following is None else following, **ends)


def datagram() -> bytes:
    ends = {"src": CLIENT, "dst": VIP}
    return packets.ipv4(packets.udp(b"a longer question", sport=40000, dport=53, **ends), protocol=packets.UDP, **ends)


def own(port: int) -> bytes:
    """A datagram from another node to this one's own address, an echo question to port 4742."""
    ends = {"src": "10.0.0.12", "dst": "10.0.0.11"}
    question = EchoMessage(EchoKind.QUESTION, cluster=4242, nonce=1).pack()
    return packets.ipv4(packets.udp(question, sport=40000, dport=port, **ends), protocol=packets.UDP, **ends)


def tunnel(inner: bytes, gue: bool = False) -> bytes:
    protocol = 4 if inner[0] >> 4 == 4 else 41
    if gue:
        protocol, inner = packets.UDP, packets.gue(inner, source=50000)
    return packets.ipv4(inner, src="10.0.0.12", dst="10.0.0.11", protocol=protocol, ident=1)


def frame(ip: bytes, hop: int = 0) -> bytes:
    source = packets.marker(hop, 12) if hop else ROUTER
    return packets.ethernet(ip, dst=HERE, src=source, ethertype=packets.IPV4 if ip[0] >> 4 == 4 else packets.IPV6)


PLAIN = {
    "TCP to another owner": (frame(segment()), "tx"),
    "TCP to another owner, by a tunnel": (frame(segment(TUNNEL)), "tx"),
    "TCP over IPv6 to another owner": (frame(segment6()), "tx"),
    "TCP over IPv6 to another owner, by a tunnel": (frame(segment6(TUNNEL)), "tx"),
    "a SYN at its owner": (frame(segment(OWNER)), "pass"),
    "a segment without a socket at its owner": (frame(segment(OWNER, ACK)), "tx"),
    "TCP over IPv6 at its owner": (frame(segment6(OWNER)), "pass"),
    "a datagram at its owner": (frame(datagram()), "pass"),
    "TCP that was forwarded by MAC": (frame(segment(OWNER), hop=1), "pass"),
    "TCP in IPv4": (frame(tunnel(segment(OWNER))), "pass"),
    "TCP in GUE": (frame(tunnel(segment(OWNER), gue=True)), "pass"),
}

GENERAL = {
    "a VLAN tag": packets.ethernet(
        packets.vlan(segment(), 5, packets.IPV4), dst=HERE, src=ROUTER, ethertype=packets.VLAN
    ),
    "IPv4 options": frame(segment(options=b"\1\1\1\1")),
    "a fragment": frame(segment(fragment=packets.MORE_FRAGMENTS)),
    "an IPv6 extension header": frame(segment6(following=0)),
    "a packet too large for the tunnel": frame(segment(TUNNEL, size=1450)),
    "IPv6 in IPv4": frame(tunnel(segment6(OWNER))),
    "an echo question": frame(own(4742)),
    "an echo question in a tunnel": frame(tunnel(own(4742), gue=True)),
    "a packet that is cut": frame(segment(OWNER))[:60],
}


@pytest.mark.parametrize("what", PLAIN)
def test_plain_packet(world: Any, what: str) -> None:
    packet, verdict = PLAIN[what]
    outcome = world.observe(packet)
    assert outcome.verdict == verdict
    assert any(slot for slot, _ in outcome.events), "it is counted for its service"


@pytest.mark.parametrize(
    "packet",
    [
        own(53),
        packets.ipv4(packets.icmp(bytes(56), kind=8), src=CLIENT, dst="10.0.0.11", protocol=packets.ICMP),
        packets.ipv4(
            packets.tcp(src=CLIENT, dst="10.0.0.11", sport=1, dport=22), src=CLIENT, dst="10.0.0.11", protocol=6
        ),
    ],
    ids=["UDP", "ICMP", "TCP"],
)
def test_traffic_of_the_node_itself_is_plain(world: Any, packet: bytes) -> None:
    outcome = world.observe(frame(packet))
    assert (outcome.verdict, outcome.events) == ("pass", {(0, Counter.PASS_NO_SERVICE): 1})


@pytest.mark.parametrize("what", GENERAL)
def test_packet_that_is_not_plain(world: Any, what: str) -> None:
    """It is left as it came, and not counted: the general program begins from the start."""
    outcome = world.observe(GENERAL[what])
    assert (outcome.verdict, outcome.packet, outcome.events) == ("pass", GENERAL[what], {})


@pytest.mark.parametrize("why", ["sampling", "two epochs"])
def test_nothing_is_plain_with(world: Any, why: str) -> None:
    conf, sent = world.maps.conf.read(), frame(segment())
    try:
        match why:
            case "sampling":
                world.maps.sampling.write(SampleFilter())
            case "two epochs":
                world.maps.conf.write(replace(conf, other=OtherEpoch(bytes(16))))
        outcome = world.observe(sent)
        assert (outcome.verdict, outcome.packet, outcome.events) == ("pass", sent, {})
    finally:
        world.maps.sampling.write(None)
        world.maps.conf.write(conf)
    assert world.observe(sent).verdict == "tx"


@pytest.mark.parametrize("sent", [frame(segment()), frame(tunnel(segment(OWNER)))], ids=["straight", "in a tunnel"])
def test_denied_packet_is_plain(world: Any, sent: bytes) -> None:
    """An attack that the deny list stops must not cost more than other packets."""
    world.maps.deny_list.write([ip_network(f"{CLIENT}/32")])
    try:
        outcome = world.observe(sent)
    finally:
        world.maps.deny_list.write([])
    assert (outcome.verdict, outcome.events) == ("drop", {(0, Counter.DROP_DENIED): 1})
