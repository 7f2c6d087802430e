# SPDX-License-Identifier: Apache-2.0
"""All that a node knows, for the packet oracle."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from support.oracle.echo import NO_ECHO, Echo
from support.oracle.headers import Address, Flow

Network = IPv4Network | IPv6Network
IPV6_MTU = 1280


@dataclass(frozen=True)
class Node:
    """A next hop; `mac` None: never known. `ifindex` 0: by the interface that the packet came by.

    `silent`: it does not answer; `awaited`: so recently that it may come back with its connections.
    """

    tag: int
    mac: str | None
    address: Address | None = None
    address6: Address | None = None
    on_link: bool = True
    outer6: bool = False
    ifindex: int = 0
    source: str | None = None
    vlan: int = 0
    mtu: int = 1500
    silent: bool = False
    awaited: bool = False


@dataclass(frozen=True)
class Service:
    """`slot` numbers its counters; `up`: this node takes new connections of it; `affinity`: 5-, 3- or 2-tuple."""

    slot: int
    up: bool = True
    affinity: int = 5
    forward: str = "l2"
    drop_no_member: bool = False


@dataclass(frozen=True)
class Row:
    chain: tuple[int, ...] = ()
    grace: bool = False


@dataclass(frozen=True)
class OtherEpoch:
    """A second epoch that a node uses: another secret's rows, which alternate with the first's or come last."""

    secret: bytes
    tables: Mapping[int, Sequence[Row]]
    alternating: bool


@dataclass(frozen=True)
class World:
    """All that a node knows. `tables` holds each slot's rows; `services` are keyed by VIP, protocol and port (0: any).

    `sockets` holds what the kernel has for a flow; tunnels are opened from `prefixes`, and echo questions answered;
    `denied` are sources; `class_e`: clients may have addresses of 240.0.0.0/4; `drop_other`: what is neither TCP, UDP
    nor ICMP is dropped; `vlans`: whose frames are handled, 0 for priority tags. `first_fragments` holds what is known
    of fragmented packets, by client, VIP, protocol and number.
    """

    mac: str
    me: int
    nodes: Mapping[int, Node]
    secret: bytes
    services: Mapping[tuple[Address, int, int], Service]
    tables: Mapping[int, Sequence[Row]]
    sockets: Mapping[Flow, str] = field(default_factory=dict)
    prefixes: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()
    other: OtherEpoch | None = None
    echo: Echo = NO_ECHO
    class_e: bool = False
    drop_other: bool = False
    vlans: Set[int] = frozenset({0})
    first_fragments: Mapping[tuple[Address, Address, int, int], tuple[int, int, bool]] = field(default_factory=dict)

    @property
    def any_narrow(self) -> bool:
        """Whether a tunnel to another node cannot carry 1,280 bytes of some IPv6 service."""
        services = [service for key, service in self.services.items() if key[0].version == 6]
        others = [node for number, node in self.nodes.items() if number != self.me]
        return any(room(service, node) < IPV6_MTU for service in services for node in others)

    @property
    def vips(self) -> set[Address]:
        return {vip for vip, _, _ in self.services}


def room(service: Service, node: Node) -> int:
    """Return the largest packet that a tunnel to a node carries; without a tunnel, any."""
    if service.forward == "l2":
        return 65_535
    return node.mtu - (40 if node.outer6 else 20) - 8 * (service.forward == "gue")
