# SPDX-License-Identifier: Apache-2.0
"""The packet oracle: what must become of a frame, given what a node knows. Shares no code with the program's twins.

Owns the way from a frame to verdict, frame out and counters; oracle_headers reads, oracle_hop holds the next-hop rule.
Names of counters are lb.h's, in lower case.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import oracle_headers
import oracle_hop
from oracle_headers import Address, Flow, Kind, Reading
from scapy.layers.l2 import Ether


@dataclass(frozen=True)
class Node:
    """A next hop; `mac` None: never known."""

    tag: int
    mac: str | None


@dataclass(frozen=True)
class Service:
    """`slot` numbers its counters; `up`: this node takes new connections of it; `affinity`: 5-, 3- or 2-tuple."""

    slot: int
    up: bool = True
    affinity: int = 5


@dataclass(frozen=True)
class Row:
    chain: tuple[int, ...] = ()
    grace: bool = False


@dataclass(frozen=True)
class World:
    """All that a node knows. `tables` holds each slot's rows; `services` are keyed by VIP, protocol and port (0: any).

    `sockets` holds what the kernel has for a flow; a cookie counts for one acknowledgement number only.
    """

    mac: str
    me: int
    nodes: Mapping[int, Node]
    secret: bytes
    services: Mapping[tuple[Address, int, int], Service]
    tables: Mapping[int, Sequence[Row]]
    sockets: Mapping[Flow, str] = field(default_factory=dict)

    @property
    def vips(self) -> set[Address]:
        return {vip for vip, _, _ in self.services}


@dataclass(frozen=True)
class Judgement:
    """`frame` is what leaves, or what the kernel gets to see; `counted` holds (slot, counter) in any order."""

    verdict: str
    frame: bytes
    counted: tuple[tuple[int, str], ...]


def judge(world: World, frame: bytes) -> Judgement:
    """Say what must become of a frame."""
    reading = oracle_headers.read(frame, world.mac, world.vips)
    if reading.kind is Kind.OTHER_MAC:
        return Judgement("pass", frame, ((0, "pass_other_mac"),))
    service = _service(world, reading)
    slot = service.slot if service else 0
    if reading.kind in (Kind.FRAGMENT, Kind.MALFORMED) and _serves_protocol(world, reading.flow):
        return Judgement("drop", frame, ((slot, f"drop_{reading.kind.name.lower()}"),))
    if reading.kind is not Kind.FLOW or service is None:
        return Judgement("pass", frame, ((0, "pass_other"),))
    return _served(world, service, reading, frame)


def _served(world: World, service: Service, reading: Reading, frame: bytes) -> Judgement:
    flow = reading.flow
    assert flow
    noted = ["rx_forwarded" if reading.hop else "rx"] + ["rx_icmp_error"] * reading.error
    table = world.tables.get(service.slot)
    if table is None:
        return _judged("pass", frame, service.slot, [*noted, "no_member"])
    row = table[flow_hash(world.secret, flow, service.affinity) % len(table)]
    by_tag = {node.tag: number for number, node in world.nodes.items()}
    here = oracle_hop.Belief(
        me=world.me,
        chain=row.chain,
        socket=world.sockets.get(flow),
        up=service.up,
        grace=row.grace,
        unreachable=[number for number, node in world.nodes.items() if node.mac is None],
    )
    packet = oracle_hop.Packet(reading.opens, reading.hop, by_tag.get(reading.prev_tag, -1), flow.protocol == 17)
    decision = oracle_hop.decide(here, packet)
    noted += ["skip_no_mac"] * decision.skipped + [decision.event]
    if decision.to is None:
        verdict = "drop" if decision.event.startswith("drop") else "pass"
        return _judged(verdict, frame, service.slot, noted)
    return _judged("tx", _by_l2(world, decision.to, reading.hop, frame), service.slot, noted)


def _judged(verdict: str, frame: bytes, slot: int, noted: list[str]) -> Judgement:
    return Judgement(verdict, frame, tuple((slot, name) for name in noted))


def _service(world: World, reading: Reading) -> Service | None:
    flow = reading.flow
    if flow is None:
        return None
    exact = world.services.get((flow.vip, flow.protocol, flow.vip_port))
    return exact or world.services.get((flow.vip, flow.protocol, 0))


def _serves_protocol(world: World, flow: Flow | None) -> bool:
    """Whether the VIP has a service of that protocol; 0 stands for all of them."""
    return any(flow and vip == flow.vip and flow.protocol in (0, protocol) for vip, protocol, _ in world.services)


def _by_l2(world: World, to: int, hop: int, frame: bytes) -> bytes:
    tag = world.nodes[world.me].tag
    source = f"02:4c:42:{hop + 1:02x}:{tag >> 8:02x}:{tag & 0xFF:02x}"
    return bytes(Ether(dst=world.nodes[to].mac, src=source))[:12] + frame[12:]


def flow_hash(secret: bytes, flow: Flow, affinity: int = 5) -> int:
    """Multilinear hashing (Lemire and Kaser 2014, "Strongly universal string hashing is fast"), then lowbias32.

    The key's words are the secret and what SHAKE-256 makes of it, little-endian; so are the flow's words.
    """
    stream = secret + hashlib.shake_256(b"anylb flow hash" + secret).digest(64)
    key = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 80, 8)]
    client, vip = _words(flow.client.packed), _words(flow.vip.packed)
    total = key[0]
    for i, (c, v) in enumerate(zip(client, vip, strict=True)):
        total += (c + key[1 + 2 * i]) * (v + key[2 + 2 * i])
    ports = {5: (flow.client_port, flow.vip_port), 3: (0, flow.vip_port), 2: (0, 0)}[affinity]
    total += _words(struct.pack("!HH", *ports))[0] * key[9]
    value = total % 2**64 >> 32
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        value = (value ^ value >> shift) * factor % 2**32
    return value


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
