# SPDX-License-Identifier: Apache-2.0
"""The packet oracle: what must happen to a frame, given what a node knows. Shares no code with bpf/reference.

Owns the path from a frame to verdict, frame out and counters; world.py is what a node knows, headers.py reads,
next_hop.py has the next-hop rule, frames.py the frames that leave, tunnel.py the outer headers. Names of counters are
lb.h's, in lower case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_network

from support.oracle import echo as oracle_echo
from support.oracle import next_hop as oracle_next_hop
from support.oracle.flow_hash import flow_hash
from support.oracle.frames import ETHERTYPE, QUOTE, Arrival, by_l2, by_tunnel, outer_of, reachable, too_big, too_narrow
from support.oracle.headers import (
    UNKNOWN_PROTOCOL,
    Address,
    Flow,
    Kind,
    Link,
    Reading,
    ends,
    link,
    marker,
    read,
    target,
)
from support.oracle.tunnel import Opened, is_tunnel, open_tunnel
from support.oracle.world import IPV6_MTU, Row, Service, World

MARTIANS = [
    ip_network(prefix)
    for prefix in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/128", "::1/128", "::ffff:0:0/96", "fe80::/10",
        "ff00::/8",
    )
]  # fmt: skip
"""Sources that no client can have (RFC 6890, RFC 4291). A router that sends an ICMP error can."""
CLASS_E = ip_network("240.0.0.0/4")


@dataclass(frozen=True)
class Judgement:
    """`frame` is what leaves, or what the kernel gets; `counted` holds (slot, counter) in any order.

    `learned`: the frame is a first fragment, and later ones of its packet are known now.
    """

    verdict: str
    frame: bytes
    counted: tuple[tuple[int, str], ...]
    learned: bool = False


def judge(world: World, frame: bytes) -> Judgement:
    """Return what must happen to a frame."""
    outside = link(frame)
    if outside is not None and outside.dst != world.mac:
        to_group = int(outside.dst[:2], 16) & 1 and outside.family
        named = set(outside.vlans) <= world.vlans
        if to_group and named and target(outside.family, outside.rest) in world.vips:
            return Judgement("drop", frame, ((0, "drop_group_mac"),))
        return Judgement("pass", frame, ((0, "pass_other_mac"),))
    if outside is not None and not set(outside.vlans) <= world.vlans:
        return Judgement("pass", frame, ((0, "pass_other_vlan"),))
    if outside is None or outside.family is None:
        return Judgement("pass", frame, ((0, "pass_no_service"),))
    family, packet = outside.family, outside.rest
    me = world.nodes[world.me]
    if target(family, packet) in {me.address, me.address6} - {None}:
        event = "pass_no_service"
        if not is_tunnel(family, packet):
            encap = oracle_echo.MARKER if marker(outside.src)[0] else oracle_echo.PLAIN
            if judged := _answered(world, outside, packet, packet, encap):
                return judged
        else:
            event = "pass_foreign_tunnel"
            if opened := open_tunnel(family, packet, world.prefixes):
                if judged := _answered_in_tunnel(world, outside, opened):
                    return judged
                six = opened.sender if isinstance(opened.sender, IPv6Address) else None
                tag = int(opened.sender) & 0xFFFF
                way = {"tunnelled": True, "sender6": six, "came": frame}
                arrival = Arrival(outside, opened.family, opened.behind, opened.hop, tag, **way)
                reading = read(opened.family, opened.inner, world.vips)
                if reading and (judged := _to_vip(world, arrival, reading)):
                    return judged
        return Judgement("pass", frame, ((0, event),))
    reading = read(family, packet, world.vips)
    judged = reading and _to_vip(world, Arrival(outside, family, packet, *marker(outside.src), came=frame), reading)
    return judged or Judgement("pass", frame, ((0, "pass_no_service"),))


def _answered_in_tunnel(world: World, outside: Link, opened: Opened) -> Judgement | None:
    """Judge a tunnel's packet as a question, which has the tunnel's ends; None if it is none."""
    me, inner = world.nodes[world.me], opened.inner
    own = me.address if opened.sender.version == 4 else me.address6
    if opened.hop & ~oracle_next_hop.GRACED > oracle_next_hop.K + 1 or opened.family != opened.sender.version:
        return None
    if ends(opened.family, inner) != (opened.sender, own):
        return None
    return _answered(world, outside, inner, opened.behind, oracle_echo.TUNNEL, exact=True)


def _answered(
    world: World, outside: Link, packet: bytes, behind: bytes, encap: int, exact: bool = False
) -> Judgement | None:
    """Judge a packet to this node as a question; None if it is none. `behind`: with all that follows it in the frame.

    `exact`: the packet has no padding.
    """
    family = outside.family
    assert family
    reply = oracle_echo.answer(world.echo, family, packet, outside.macs[6:], encap, world.prefixes)
    if reply is None or (exact and len(packet) != len(reply[1])):
        return None
    to, answer = reply
    frame = to + outside.macs[:6] + outside.tags + ETHERTYPE[family] + answer + behind[len(answer) :]
    return Judgement("tx", frame, ((0, "reply_echo"),))


def _to_vip(world: World, arrival: Arrival, reading: Reading) -> Judgement | None:
    """Judge a packet to a VIP; None if it is for no service and nothing is wrong with it."""
    served = [
        (port, service)
        for (vip, protocol, port), service in world.services.items()
        if (vip, protocol) == (reading.flow.vip, reading.flow.protocol)
    ]
    by_port = dict(served)
    any_port = by_port.get(0)
    slot = any_port.slot if any_port else 0
    cares = served or reading.flow.protocol == UNKNOWN_PROTOCOL  # then the VIP alone matters
    if reading.kind is Kind.MALFORMED_HEADER:
        return _dropped(arrival, slot, "drop_malformed") if cares else None
    for event, holds in (
        ("drop_denied", any(reading.source in prefix for prefix in world.denied)),
        ("drop_land", reading.source == reading.flow.vip),
        ("drop_martian", not reading.any_source and _is_martian(world, reading.source)),
        ("drop_fragment", reading.kind is Kind.ICMP_FRAGMENT),
        ("drop_ipv6_headers", reading.kind is Kind.IPV6_HEADERS),
        ("drop_other_protocol", reading.kind is Kind.OTHER_PROTOCOL and world.drop_other),
    ):
        if holds:
            return _dropped(arrival, 0, event)
    if reading.kind is Kind.MALFORMED:
        return _dropped(arrival, slot, "drop_malformed") if cares else None
    if reading.kind is Kind.FRAGMENT:
        if len(served) == 1 and served[0][1].affinity == 2:
            return _served(world, served[0][1], arrival, reading)
        return _collected(world, arrival, reading, by_port, slot) if served else None
    service = by_port.get(reading.flow.vip_port) or any_port
    if reading.kind is not Kind.FLOW or not service or (arrival.tunnelled and arrival.hop > oracle_next_hop.K + 1):
        return None
    return _served(world, service, arrival, reading)


def _is_martian(world: World, source: Address) -> bool:
    if world.class_e and source in CLASS_E and int(source) != 0xFFFF_FFFF:
        return False
    return any(source in prefix for prefix in MARTIANS)


def _dropped(arrival: Arrival, slot: int, event: str) -> Judgement:
    return Judgement("drop", arrival.frame, ((slot, event),))


def _came(arrival: Arrival, reading: Reading) -> list[str]:
    noted = ["rx_forwarded" if arrival.hop or arrival.collected else "rx"]
    return noted + ["rx_tunnel"] * arrival.tunnelled + ["rx_icmp_error"] * reading.error


def _collected(
    world: World, arrival: Arrival, reading: Reading, by_port: Mapping[int, Service], slot: int
) -> Judgement | None:
    """Judge a fragment of a VIP whose flows need ports. The service with the lowest port says who collects it."""
    flow, hop, noted = reading.flow, arrival.hop, _came(arrival, reading)
    service = by_port[min(by_port)]
    shown = reading.first if not reading.later else world.first_fragments.get(
        (flow.client, flow.vip, flow.protocol, reading.ident)
    )  # fmt: skip
    if shown is None and not reading.later:
        return _judged("drop", arrival.frame, slot, [*noted, "drop_malformed"])
    table = world.tables.get(service.slot)
    hashed = flow_hash(world.secret, flow, 2)
    chain = table[hashed % len(table)].chain if table else ()
    searched = hop == 0 or hop > oracle_next_hop.K + 1
    usable = [n for n in chain if n == world.me or (reachable(world, service, n) and not world.nodes[n].silent)]
    wide = [n for n in usable if n == world.me or not too_narrow(world, service, n, reading)]
    if hop == 0 and wide and wide[0] != world.me:
        event = "forward_fragment"
        return _sent(
            world, service, wide[0], arrival, reading, hashed, slot, [*noted, event], oracle_next_hop.COLLECT_HOP
        )
    if shown:
        return _of_flow(world, arrival, reading, by_port, shown)
    if not searched or chain == (world.me,):
        if searched and (table is None or hop >= oracle_next_hop.COLLECT_HOP_MAX):
            return _judged("drop", arrival.frame, slot, [*noted, "drop_fragment"])
        return _judged("pass", arrival.frame, slot, [*noted, "deliver_fragment"])
    back = hop and (hop - oracle_next_hop.COLLECT_HOP) % 2
    others = [n for n in usable if n != world.me and (not back or n == _sender(world, arrival))]
    if hop >= oracle_next_hop.COLLECT_HOP_MAX or not others:
        return _judged("drop", arrival.frame, slot, [*noted, "drop_fragment"])
    leaves = hop + 1 if hop else oracle_next_hop.COLLECT_HOP + 1
    return _sent(world, service, others[0], arrival, reading, hashed, slot, [*noted, "forward_delayed"], leaves)


def _of_flow(
    world: World, arrival: Arrival, reading: Reading, by_port: Mapping[int, Service], shown: tuple[int, int, bool]
) -> Judgement | None:
    """Judge a fragment whose first one has shown its flow: from here on it is a packet of it."""
    service = by_port.get(shown[1]) or by_port.get(0)
    if arrival.hop > oracle_next_hop.K + 1:
        arrival = replace(arrival, carried_hop=arrival.graced, collected=True)
    flow = replace(reading.flow, client_port=shown[0], vip_port=shown[1])
    judged = _served(world, service, arrival, replace(reading, flow=flow, opens=shown[2])) if service else None
    learned = not reading.later
    if judged is None:
        event = "pass_foreign_tunnel" if arrival.tunnelled else "pass_no_service"
        return Judgement("pass", arrival.came, ((0, event),), learned)
    return replace(judged, learned=learned)


def _served(world: World, service: Service, arrival: Arrival, reading: Reading) -> Judgement:
    flow, fragment, noted = reading.flow, reading.kind is Kind.FRAGMENT, _came(arrival, reading)
    table = world.tables.get(service.slot)
    hashed = flow_hash(world.secret, flow, service.affinity)
    if table is None:
        return _no_member(service, arrival, noted)
    row = _row(world, service, flow, table[hashed % len(table)])
    here = oracle_next_hop.Belief(
        me=world.me,
        chain=row.chain,
        socket=world.sockets.get(flow),  # a fragment without ports has none
        up=service.up,
        grace=row.grace,
        unreachable=[number for number in world.nodes if not reachable(world, service, number)],
        silent=[number for number, node in world.nodes.items() if node.silent],
        awaited=[number for number, node in world.nodes.items() if node.awaited],
        narrow=[number for number in world.nodes if too_narrow(world, service, number, reading)],
        any_narrow=flow.vip.version == 6 and world.any_narrow,
    )
    came_by, graced = _sender(world, arrival), bool(arrival.graced)
    packet = oracle_next_hop.Packet(reading.opens, arrival.hop, came_by, flow.protocol == 17, graced)
    decision = oracle_next_hop.decide(here, packet)
    event = decision.event
    if fragment and event in ("deliver_owner", "deliver_forwarded_syn", "deliver_udp"):
        event = "deliver_fragment"
    if event == "pass_no_member" or (not row.chain and service.drop_no_member and event.startswith("drop")):
        return _no_member(service, arrival, noted)
    noted += ["skip_no_mac"] * decision.skipped + ["skip_silent"] * decision.silent
    noted += ["skip_narrow"] * decision.narrow
    if decision.to is None:
        verdict = "drop" if event.startswith("drop") else "pass"
        return _judged(verdict, arrival.frame, service.slot, [*noted, event])
    hop = arrival.hop + 1 | oracle_next_hop.GRACED * decision.graced
    return _sent(world, service, decision.to, arrival, reading, hashed, service.slot, [*noted, event], hop)


def _sent(
    world: World, service: Service, to: int, arrival: Arrival, reading: Reading, hashed: int, slot: int,
    noted: list[str], hop: int,
) -> Judgement:  # fmt: skip
    """Judge a packet that is sent to another node with that hop. The last of `noted` is how, if it fits."""
    hop |= arrival.graced
    verdict = "redirect" if world.nodes[to].ifindex else "tx"
    if service.forward == "l2":
        return _judged(verdict, by_l2(world, to, arrival, hop), slot, noted)
    outer = outer_of(world, service, to, reading, hashed, hop)
    if reading.length + outer.overhead <= world.nodes[to].mtu:
        return _judged(verdict, by_tunnel(world, to, arrival, reading, outer), slot, noted)
    mtu = world.nodes[to].mtu - outer.overhead
    silent = arrival.hop or arrival.collected or reading.error or reading.later or reading.length < QUOTE
    if silent or (arrival.family == 6 and mtu < IPV6_MTU):
        return _judged("drop", arrival.frame, slot, [*noted[:-1], "drop_too_big"])
    reply_too_big = too_big(arrival, reading, mtu)
    return _judged("tx", reply_too_big, slot, [*noted[:-1], "reply_too_big"])


def _row(world: World, service: Service, flow: Flow, first: Row) -> Row:
    """Return a packet's row, or the one that two rows make together."""
    if world.other is None:
        return first
    table = world.other.tables[service.slot]
    other = table[flow_hash(world.other.secret, flow, service.affinity) % len(table)]
    chain = oracle_next_hop.join_rows(first.chain, other.chain, world.other.alternating)
    return Row(tuple(chain), first.grace or other.grace)


def _sender(world: World, arrival: Arrival) -> int:
    """Return the node whose tag the packet has; over IPv6, whose address is its outer source. -1: an unknown node."""
    for number, node in world.nodes.items():
        if (node.address6 == arrival.sender6) if arrival.sender6 else (node.tag == arrival.prev_tag):
            return number
    return -1


def _no_member(service: Service, arrival: Arrival, noted: list[str]) -> Judgement:
    if service.drop_no_member:
        return _judged("drop", arrival.frame, service.slot, [*noted, "drop_no_member"])
    return _judged("pass", arrival.frame, service.slot, [*noted, "pass_no_member"])


def _judged(verdict: str, frame: bytes, slot: int, noted: list[str]) -> Judgement:
    return Judgement(verdict, frame, tuple((slot, name) for name in noted))
