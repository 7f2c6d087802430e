# SPDX-License-Identifier: Apache-2.0
"""Tunnels: encapsulation, decapsulation, tunnels that are not accepted, and replies to packets that are too large.

This node is 1 (10.0.0.11, 2001:db8::b); every service's chain is 2, 3, 4, 5 unless a case says otherwise.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from support import packets
from support.packets import ACK, GUE_PORT, HERE, ICMP6, IPIP, ROUTER, SIX, SYN, UDP

from bpf.layout.counter import Counter
from bpf.layout.service import Forward, Protocol
from bpf.reference.flow_hash import flow_hash

VIP, VIP6 = "10.99.0.1", "2001:db8:99::1"
CLIENT, CLIENT6 = "10.1.0.2", "2001:db8:1::2"
KEY = bytes(range(16))
PORT = {Forward.L2: 7000, Forward.IPIP: 7001, Forward.GUE: 7002}
SLOT = {Forward.L2: 1, Forward.IPIP: 2, Forward.GUE: 3}
C = Counter


@pytest.fixture(scope="module")
def world(program: Any) -> Any:
    for forward, port in PORT.items():
        for vip, more in ((VIP, 0), (VIP6, 3)):
            program.set_chain(SLOT[forward] + more, (2, 3, 4, 5))
            program.serve(SLOT[forward] + more, Protocol.TCP, port, vip=vip, forward=forward)
    return program


@pytest.fixture(autouse=True)
def restore_chains_and_nodes(world: Any) -> Iterator[None]:
    yield
    for slot in range(1, 7):
        world.set_chain(slot, (2, 3, 4, 5))
    for index in range(1, 9):
        world.know_node(index)


def client_packet(family: int, port: int, flags: int = SYN, payload: bytes = b"hello", tos: int = 0) -> bytes:
    """A client's packet from its IP header on."""
    src, dst = (CLIENT, VIP) if family == 4 else (CLIENT6, VIP6)
    segment = packets.tcp(payload, src=src, dst=dst, sport=40000, dport=port, flags=flags)
    if family == 4:
        head = packets.ipv4(segment, src=src, dst=dst, protocol=packets.TCP)
        head = head[:1] + bytes([tos]) + head[2:10] + b"\0\0" + head[12:]
        return head[:10] + packets.checksum(head[:20]).to_bytes(2, "big") + head[12:]
    return packets.ipv6(segment, src=src, dst=dst, protocol=packets.TCP, traffic_class=tos)


def number(family: int, port: int) -> int:
    ends = (CLIENT, VIP) if family == 4 else (CLIENT6, VIP6)
    return flow_hash(KEY, ip_address(ends[0]), 40000, ip_address(ends[1]), port)


def typed(ip: bytes) -> int:
    return packets.IPV4 if ip[0] >> 4 == 4 else packets.IPV6


def frame(ip: bytes, dst: bytes = HERE, src: bytes = ROUTER) -> bytes:
    return packets.ethernet(ip, dst=dst, src=src, ethertype=typed(ip))


def outer(
    inner: bytes, forward: Forward, outer6: bool, hop: int, source: int = 1, to: int = 2, tos: int = 0,
    hashed: int = 0, **more: Any,
) -> bytes:  # fmt: skip
    """Return what node `source` sends to node `to`, from the outer IP header on."""
    protocol = IPIP if inner[0] >> 4 == 4 else SIX
    if forward is Forward.GUE:
        protocol, inner = UDP, packets.gue(inner, source=49152 + (hashed & 0x3FFF))
    if outer6:
        ends = {"src": f"2001:db8::{10 + source:x}", "dst": f"2001:db8::{10 + to:x}"}
        label = (hashed & 0x7FFF) << 5 | hop
        return packets.ipv6(inner, protocol=protocol, traffic_class=tos, label=label, **(ends | more))
    ends = {"src": f"10.0.0.{10 + source}", "dst": f"10.0.0.{10 + to}"}
    head = packets.ipv4(inner, protocol=protocol, ident=hop, **(ends | more))
    head = head[:1] + bytes([tos]) + head[2:10] + b"\0\0" + head[12:]
    return head[:10] + packets.checksum(head[:20]).to_bytes(2, "big") + head[12:]


def node_mac(index: int) -> bytes:
    return packets.mac(f"02:00:00:00:00:{index:02x}")


FORMS = [
    pytest.param(forward, family, outer6, id=f"{forward.name.lower()} {family} in {6 if outer6 else 4}")
    for forward in (Forward.IPIP, Forward.GUE)
    for family in (4, 6)
    for outer6 in (False, True)
]


@pytest.mark.parametrize(("forward", "family", "outer6"), FORMS)
@pytest.mark.parametrize("size", [0, 5, 1000])
def test_packet_is_encapsulated(world: Any, forward: Forward, family: int, outer6: bool, size: int) -> None:
    world.know_node(2, outer6=outer6)
    inner = client_packet(family, PORT[forward], payload=bytes(size), tos=0xB9)
    outcome = world.observe(frame(inner))
    slot = SLOT[forward] + (3 if family == 6 else 0)
    assert outcome.verdict == "tx"
    assert outcome.events == {(slot, C.RX): 1, (slot, C.FORWARD_FIRST): 1}
    wanted = outer(inner, forward, outer6, 1, tos=0xB8, hashed=number(family, PORT[forward]))
    padding = bytes(max(0, 46 - len(inner)))
    assert outcome.packet == node_mac(2) + HERE + typed(wanted).to_bytes(2, "big") + wanted + padding


@pytest.mark.parametrize(("forward", "family", "outer6"), FORMS)
def test_packet_is_decapsulated(world: Any, forward: Forward, family: int, outer6: bool) -> None:
    inner = client_packet(family, PORT[forward])
    outcome = world.observe(frame(outer(inner, forward, outer6, 1, source=3, to=1, hashed=99)))
    slot = SLOT[forward] + (3 if family == 6 else 0)
    assert outcome.verdict == "pass"
    assert outcome.events == {(slot, event): 1 for event in (C.RX_FORWARDED, C.RX_TUNNEL, C.DELIVER_FORWARDED_SYN)}
    assert outcome.packet == HERE + ROUTER + typed(inner).to_bytes(2, "big") + inner


@pytest.mark.parametrize("come6", [False, True])
@pytest.mark.parametrize(("forward", "family", "outer6"), FORMS)
def test_packet_is_forwarded_from_tunnel_to_tunnel(
    world: Any, forward: Forward, family: int, outer6: bool, come6: bool
) -> None:
    """Node 2, the row's owner, did not have it: so this node, the second, tries the third, never 2 again."""
    for index in (2, 3):
        world.know_node(index, outer6=outer6)
    slot = SLOT[forward] + (3 if family == 6 else 0)
    world.set_chain(slot, (2, 1, 3))
    inner = client_packet(family, PORT[forward], ACK)
    outcome = world.observe(frame(outer(inner, forward, come6, 2, source=2, to=1)))
    assert outcome.verdict == "tx"
    assert outcome.events == {(slot, event): 1 for event in (C.RX_FORWARDED, C.RX_TUNNEL, C.FORWARD_AGAIN)}
    wanted = outer(inner, forward, outer6, 3, to=3, hashed=number(family, PORT[forward]))
    assert outcome.packet == node_mac(3) + HERE + typed(wanted).to_bytes(2, "big") + wanted


@pytest.mark.parametrize("tags", [1, 2])
def test_vlan_tags(world: Any, tags: int) -> None:
    """l2 keeps them; a tunnel replaces them by the next hop's; packets for the kernel keep them."""

    def tagged(ip: bytes) -> bytes:
        body = packets.vlan(ip, 0x2064, typed(ip))
        if tags == 2:
            body = packets.vlan(body, 0x0065, packets.VLAN)
        return packets.ethernet(body, dst=HERE, src=ROUTER, ethertype=packets.QINQ if tags == 2 else packets.VLAN)

    for family in (4, 6):
        sent = tagged(client_packet(family, 7000))
        verdict, after = world.send(sent)
        assert (verdict, after) == ("tx", node_mac(2) + packets.marker(1, 11) + sent[12:])

        world.know_node(2, vlan=300)
        inner = client_packet(family, 7002)
        verdict, after = world.send(tagged(inner))
        wanted = outer(inner, Forward.GUE, False, 1, hashed=number(family, 7002))
        body = packets.vlan(wanted, 300, packets.IPV4)
        assert (verdict, after) == ("tx", packets.ethernet(body, dst=node_mac(2), src=HERE, ethertype=packets.VLAN))

        verdict, after = world.send(tagged(outer(inner, Forward.GUE, True, 1, source=2, to=1)))
        assert (verdict, after) == ("pass", tagged(inner))


def test_packet_with_three_tags_passes(world: Any) -> None:
    body = client_packet(4, 7000)
    for ethertype in (packets.IPV4, packets.VLAN, packets.VLAN):
        body = packets.vlan(body, 5, ethertype)
    outcome = world.observe(packets.ethernet(body, dst=HERE, src=ROUTER, ethertype=packets.VLAN))
    assert (outcome.verdict, outcome.events) == ("pass", {(0, C.PASS_NO_SERVICE): 1})


def test_packet_leaves_by_another_interface(world: Any) -> None:
    """The frame has that interface's MAC; TEST_RUN's packets come in by number 1."""
    world.know_node(2, ifindex=77, source=packets.mac("02:00:00:00:77:77"))
    inner = client_packet(4, 7001)
    verdict, after = world.send(frame(inner))
    assert (verdict, after[:12]) == ("redirect", node_mac(2) + packets.mac("02:00:00:00:77:77"))
    verdict, after = world.send(frame(client_packet(4, 7000)))
    assert (verdict, after[:12]) == ("redirect", node_mac(2) + packets.marker(1, 11))
    world.know_node(2, ifindex=1, source=packets.mac("02:00:00:00:77:77"))
    assert world.send(frame(inner))[0] == "tx"


def test_node_behind_a_router_is_reached_by_tunnels_only(world: Any) -> None:
    world.know_node(2, on_link=False)
    assert world.send(frame(client_packet(4, 7001)))[1][:6] == node_mac(2)
    outcome = world.observe(frame(client_packet(4, 7000)))
    assert outcome.packet[:6] == node_mac(3)
    assert outcome.events[1, C.SKIP_NO_MAC] == 1


INNER = client_packet(4, 7001)
INNER6 = client_packet(6, 7001)
ECHO4 = packets.ipv4(packets.icmp(b"ping", kind=8), src=CLIENT, dst=VIP, protocol=packets.ICMP)
FOREIGN = {
    "from an address that is no node's": outer(INNER, Forward.IPIP, False, 1, 2, 1, src="10.0.1.12"),
    "from a client's address": outer(INNER, Forward.GUE, False, 1, 2, 1, src=CLIENT),
    "from an IPv6 address that is no node's": outer(INNER, Forward.IPIP, True, 1, 2, 1, src="2001:db8:0:1::c"),
    "from itself": outer(INNER, Forward.IPIP, False, 1, 1, 1),
    "hop 0": outer(INNER, Forward.IPIP, False, 0, 2, 1),
    "hop 11": outer(INNER, Forward.IPIP, False, 11, 2, 1),
    "hop 0 in IPv6": outer(INNER, Forward.GUE, True, 0, 2, 1),
    "hop 11 in IPv6": outer(INNER, Forward.GUE, True, 11, 2, 1),
    "may be fragmented": outer(INNER, Forward.IPIP, False, 1, 2, 1, fragment=0),
    "a fragment": outer(INNER, Forward.IPIP, False, 1, 2, 1, fragment=packets.MORE_FRAGMENTS),
    "options": outer(INNER, Forward.IPIP, False, 1, 2, 1, options=b"\x01" * 4),
    "longer than the frame": outer(INNER, Forward.IPIP, False, 1, 2, 1, total=1500),
    "IPv6 longer than the frame": outer(INNER, Forward.IPIP, True, 1, 2, 1, length=1500),
    "IPv4 announced as IPv6": outer(INNER, Forward.IPIP, False, 1, 2, 1)[:9] + bytes([SIX])
    + outer(INNER, Forward.IPIP, False, 1, 2, 1)[10:],
    "GUE variant 0": packets.ipv4(packets.gue(b"\0\4\0\0" + INNER), src="10.0.0.12", dst="10.0.0.11", protocol=UDP),
    "GUE with a checksum": packets.ipv4(packets.gue(INNER, check=1), src="10.0.0.12", dst="10.0.0.11", protocol=UDP),
    "GUE with another length": packets.ipv4(packets.gue(INNER, length=60), src="10.0.0.12", dst="10.0.0.11",
                                            protocol=UDP),
    "to no VIP": outer(INNER[:16] + IPv4Address("10.98.0.1").packed + INNER[20:], Forward.IPIP, False, 1, 2, 1),
    "to this node itself": outer(INNER[:16] + IPv4Address("10.0.0.11").packed + INNER[20:], Forward.IPIP, False, 1, 2,
                                 1),
    "to a port that is not served": outer(client_packet(4, 22), Forward.GUE, False, 1, 2, 1),
    "echo request": outer(ECHO4, Forward.GUE, False, 1, 2, 1),
    "nested": outer(packets.ipv4(INNER, src="10.0.0.13", dst=VIP, protocol=IPIP), Forward.IPIP, False, 1, 2, 1),
    "nested to this node": outer(outer(INNER, Forward.IPIP, False, 1, 3, 1), Forward.IPIP, False, 1, 2, 1),
    "nested in GUE": outer(outer(INNER, Forward.GUE, False, 1, 3, 1), Forward.GUE, False, 1, 2, 1),
    "too short for what is inside": outer(INNER[:19], Forward.IPIP, False, 1, 2, 1),
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_tunnel_passes_unmodified(world: Any, what: str) -> None:
    ip = FOREIGN[what]
    outcome = world.observe(frame(ip))
    assert outcome.verdict == "pass"
    assert outcome.packet == frame(ip)
    assert outcome.events == {(0, C.PASS_FOREIGN_TUNNEL): 1}


def test_own_traffic_passes(world: Any) -> None:
    """The node's own traffic: other UDP, other protocols, and tunnels to another node."""
    other = packets.ipv4(packets.gue(INNER, dest=GUE_PORT + 1), src="10.0.0.12", dst="10.0.0.11", protocol=UDP)
    other6 = packets.ipv6(packets.gue(INNER, dest=53), src="2001:db8::c", dst="2001:db8::b", protocol=UDP)
    ssh = packets.ipv4(packets.tcp(src="10.0.0.12", dst="10.0.0.11", sport=5, dport=22), src="10.0.0.12",
                       dst="10.0.0.11", protocol=packets.TCP)  # fmt: skip
    solicitation = packets.ipv6(packets.icmp6(bytes(16), src="2001:db8::c", dst=VIP6, kind=135), src="2001:db8::c",
                                dst=VIP6, protocol=ICMP6)  # fmt: skip
    for ip in (other, other6, ssh, outer(INNER, Forward.IPIP, False, 1, 2, 3), solicitation):
        outcome = world.observe(frame(ip))
        assert (outcome.verdict, outcome.packet) == ("pass", frame(ip))
        assert outcome.events == {(0, C.PASS_NO_SERVICE): 1}


REFUSED = {
    "land": (client_packet(4, 7001)[:12] + IPv4Address(VIP).packed + client_packet(4, 7001)[16:], C.DROP_LAND),
    "martian": (client_packet(4, 7001)[:12] + IPv4Address("127.0.0.1").packed + INNER[16:], C.DROP_MARTIAN),
    "land6": (INNER6[:8] + IPv6Address(VIP6).packed + INNER6[24:], C.DROP_LAND),
    "martian6": (INNER6[:8] + IPv6Address("fe80::1").packed + INNER6[24:], C.DROP_MARTIAN),
    "longer than the tunnel": (INNER[:2] + b"\5\xdc" + INNER[4:], C.DROP_MALFORMED),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("tunnel", [None, Forward.IPIP, Forward.GUE])
def test_packet_is_dropped_alone_and_in_a_tunnel(world: Any, what: str, tunnel: Forward | None) -> None:
    inner, reason = REFUSED[what]
    ip = inner if tunnel is None else outer(inner, tunnel, False, 1, 2, 1)
    outcome = world.observe(frame(ip))
    assert (outcome.verdict, outcome.packet) == ("drop", frame(ip))
    assert outcome.events == {(0, reason): 1}


@pytest.mark.parametrize(("forward", "family", "outer6"), FORMS)
def test_client_gets_an_icmp_error_if_its_packet_is_too_large(
    world: Any, forward: Forward, family: int, outer6: bool
) -> None:
    world.know_node(2, outer6=outer6, mtu=1500)
    overhead = (40 if outer6 else 20) + (8 if forward is Forward.GUE else 0)
    headers = 40 if family == 4 else 60
    slot = SLOT[forward] + (3 if family == 6 else 0)
    fitting = client_packet(family, PORT[forward], ACK, payload=bytes(1500 - overhead - headers))
    assert world.send(frame(fitting))[0] == "tx"
    large = client_packet(family, PORT[forward], ACK, payload=bytes(range(250)) * 6)
    outcome = world.observe(frame(large))
    assert outcome.verdict == "tx"
    assert outcome.events == {(slot, C.RX): 1, (slot, C.REPLY_TOO_BIG): 1}
    if family == 4:
        message = packets.icmp(large[:504], kind=3, code=4, rest=1500 - overhead)
        answer = packets.ipv4(message, src=VIP, dst=CLIENT, protocol=packets.ICMP, ident=0)
    else:
        ends = {"src": VIP6, "dst": CLIENT6}
        message = packets.icmp6(large[:504], kind=2, rest=1500 - overhead, **ends)
        answer = packets.ipv6(message, protocol=ICMP6, **ends)
    assert outcome.packet == packets.ethernet(answer, dst=ROUTER, src=HERE, ethertype=typed(answer))


def test_too_large_for_a_second_tunnel_is_dropped(world: Any) -> None:
    """The sender is another node, not the client's router: no ICMP error goes back."""
    world.set_chain(2, (2, 1, 3))
    world.know_node(3, mtu=1000)
    large = client_packet(4, 7001, ACK, payload=bytes(1300))
    outcome = world.observe(frame(outer(large, Forward.IPIP, False, 2, 2, 1)))
    assert outcome.verdict == "drop"
    assert outcome.events == {(2, event): 1 for event in (C.RX_FORWARDED, C.RX_TUNNEL, C.DROP_TOO_BIG)}


def test_icmp_errors_are_rate_limited(world: Any) -> None:
    large = frame(client_packet(4, 7001, ACK, payload=bytes(1490)))
    verdicts = [world.send(large)[0] for _ in range(3000)]
    assert "tx" in verdicts
    assert verdicts.count("drop") > 1000
    assert set(verdicts) == {"tx", "drop"}


def test_truncated_tunnel_is_never_accepted(world: Any) -> None:
    world.set_chain(2, (1, 2))
    for outer6 in (False, True):
        whole = frame(outer(INNER, Forward.IPIP, outer6, 1, 2, 1))
        assert world.send(whole) == ("pass", HERE + ROUTER + b"\x08\x00" + INNER)
        for length in range(14, len(whole)):
            verdict, after = world.send(whole[:length])
            assert (verdict, after) == ("pass", whole[:length])
