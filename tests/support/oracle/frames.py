# SPDX-License-Identifier: Apache-2.0
"""How a packet came to a node, and the frames in which it may leave: to another node, or as an error to its sender.

Owns these frames and what fits into them; packets.py has the judgement.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from support.oracle import next_hop as oracle_next_hop
from support.oracle.headers import Link, Reading
from support.oracle.tunnel import Outer, outer_header
from support.oracle.world import IPV6_MTU, Service, World, room

ETHERTYPE = {4: b"\x08\0", 6: b"\x86\xdd"}
QUOTE = 504
"""Bytes that a "too big" error quotes; smaller packets fit everywhere."""


@dataclass(frozen=True)
class Arrival:
    """A packet that came: `packet` with all that follows it in the frame, `carried_hop` and `prev_tag` from its marker.

    `sender6`: the sender's whole address instead, if it came in an IPv6 tunnel. `collected`: it was forwarded to be
    collected, and begins here, with hop 0. `came` is the whole frame.
    """

    link: Link
    family: int
    packet: bytes
    carried_hop: int
    prev_tag: int
    tunnelled: bool = False
    sender6: IPv6Address | None = None
    collected: bool = False
    came: bytes = b""

    @property
    def hop(self) -> int:
        """The number of its forwards."""
        return self.carried_hop & ~oracle_next_hop.GRACED

    @property
    def graced(self) -> int:
        """GRACED if it takes along that a row has just changed, else 0."""
        return self.carried_hop & oracle_next_hop.GRACED

    @property
    def frame(self) -> bytes:
        """The frame without the tunnel's header."""
        return self.link.macs + self.link.tags + ETHERTYPE[self.family] + self.packet


def reachable(world: World, service: Service, number: int) -> bool:
    """Whether packets of a service may go to a node."""
    me, node = world.nodes[world.me], world.nodes[number]
    if node.mac is None:
        return False
    if service.forward == "l2":
        return node.on_link
    return bool(me.address6 and node.address6) if node.outer6 else bool(me.address and node.address)


def too_narrow(world: World, service: Service, number: int, reading: Reading) -> bool:
    """Whether an IPv6 packet must not go to a node (RFC 8200, section 5; RFC 8201, section 4)."""
    fits = room(service, world.nodes[number])
    return reading.flow.vip.version == 6 and fits < IPV6_MTU and (reading.opens or fits < reading.length)


def by_l2(world: World, to: int, arrival: Arrival, hop: int) -> bytes:
    """Return the frame that leaves with a marker in place of its source."""
    tag = world.nodes[world.me].tag
    source = f"02:4c:42:{hop:02x}:{tag >> 8:02x}:{tag & 0xFF:02x}"
    return bytes(Ether(dst=world.nodes[to].mac, src=source))[:12] + arrival.frame[12:]


def outer_of(world: World, service: Service, to: int, reading: Reading, hashed: int, hop: int) -> Outer:
    """Return the outer header of a packet to a node."""
    me, node = world.nodes[world.me], world.nodes[to]
    src, dst = (me.address6, node.address6) if node.outer6 else (me.address, node.address)
    assert src
    assert dst
    return Outer(src, dst, service.forward == "gue", hop, hashed, reading.traffic_class)


def by_tunnel(world: World, to: int, arrival: Arrival, reading: Reading, outer: Outer) -> bytes:
    """Return the frame that leaves in a tunnel."""
    node = world.nodes[to]
    source = node.source if node.ifindex and node.source else world.mac
    macs = bytes(Ether(dst=node.mac, src=source))[:12]
    tag = struct.pack("!HH", 0x8100, node.vlan) if node.vlan else b""
    around = outer_header(outer, arrival.family, reading.length)
    return macs + tag + ETHERTYPE[outer.src.version] + around + arrival.packet


def too_big(arrival: Arrival, reading: Reading, mtu: int) -> bytes:
    """Return the ICMP error to the sender, by the interface that the packet came by (RFC 1191, RFC 4443)."""
    quote = Raw(arrival.packet[: min(reading.length, QUOTE)])
    ends = {"src": str(reading.flow.vip), "dst": str(reading.source)}
    if arrival.family == 4:
        answer = IP(id=0, flags="DF", ttl=64, **ends) / ICMP(type=3, code=4, nexthopmtu=mtu) / quote
    else:
        answer = IPv6(hlim=64, **ends) / ICMPv6PacketTooBig(mtu=mtu) / quote
    macs = arrival.link.macs
    return macs[6:] + macs[:6] + arrival.link.tags + ETHERTYPE[arrival.family] + bytes(answer)
