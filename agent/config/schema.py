# SPDX-License-Identifier: Apache-2.0
"""The schema of lb.yml, and the rules between its sections. Pure; reading the file is file.py's.

`services:` is service.py's, `bgp:` is bgp.py's and `members:` is members.py's, each with the rules within it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from agent.address import Address, Network
from agent.config.bgp import AnnounceConfig, BgpConfig
from agent.config.fields import AnyNetwork, InterfaceName, Section, Switch, V4Address, fault, within
from agent.config.members import MembersConfig
from agent.config.service import ServiceConfig
from agent.table.epoch import TABLE_VERSIONS

EVERYWHERE: Final = IPv4Network("0.0.0.0/0")
EVERYWHERE6: Final = IPv6Network("::/0")


def _one_interface(value: object) -> object:
    if isinstance(value, list):
        raise fault("", "is a list; give one name, or write interfaces for several")
    return value


Vlan = Annotated[int, Field(strict=True), within(1, 4094)]


class NodeConfig(Section):
    """This node: the interfaces that XDP attaches to, and the node's addresses.

    `interface`, or several `interfaces` (two uplinks, VLAN devices, a bond's slaves); the node's addresses are on the
    first one. `address` and `address6`, which only tunnels over IPv6 need, default to its first addresses. With
    `announce: false` the node is a member only: it owns flows and forwards, and the other nodes announce the VIPs.
    Frames with a VLAN tag are the program's only in the VLANs that `vlans` names; of two tags, both must be named.

    `clients` are the prefixes to which this node must have routes, by default everywhere. `rp_filter`: whether strict
    reverse path filters of the interfaces are made loose, or refused where they drop what clients send.
    """

    interface: Annotated[InterfaceName | None, BeforeValidator(_one_interface)] = None
    interfaces: Annotated[tuple[InterfaceName, ...], Field(max_length=8)] = ()
    address: V4Address | None = None
    address6: IPv6Address | None = None
    vlans: Annotated[tuple[Vlan, ...], Field(max_length=4094)] = ()
    announce: Switch = True
    clients: Annotated[tuple[AnyNetwork, ...], Field(max_length=16)] = (EVERYWHERE, EVERYWHERE6)
    rp_filter: Literal["loose", "refuse"] = "loose"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for i, prefix in enumerate(self.clients):
            if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
                raise fault(f"clients[{i}]", f"{prefix} has no clients that are reached by a route")
        if self.interface and self.interfaces:
            raise fault("interfaces", "contradicts interface; give one of them")
        if not self.names:
            raise fault("interface", "is missing")
        for i, name in enumerate(self.interfaces):
            if name in self.interfaces[:i]:
                other = f"interfaces[{self.interfaces.index(name)}]"
                raise fault(f"interfaces[{i}]", f"{name} is listed twice", other=other)
        for i, vlan in enumerate(self.vlans):
            if vlan in self.vlans[:i]:
                raise fault(f"vlans[{i}]", f"{vlan} is listed twice", other=f"vlans[{self.vlans.index(vlan)}]")
        if self.address6 and (self.address6.is_multicast or self.address6.is_link_local or self.address6.is_loopback):
            raise fault(
                "address6", f"{self.address6} cannot be the end of a tunnel; give a global or local unicast one"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The interfaces, however they are given."""
        return (self.interface,) if self.interface else self.interfaces

    def client_prefixes(self, version: int) -> tuple[Network, ...]:
        """Return the prefixes of clients of an IP version."""
        return tuple(one for one in self.clients if one.version == version)


class XdpConfig(Section):
    """How the data path attaches. With `off` the node is plain anycast: it announces, and forwards nothing."""

    # An unquoted off is a boolean in YAML 1.1.
    mode: Annotated[
        Literal["auto", "native", "generic", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "auto"


def _known(version: int) -> int:
    if version not in TABLE_VERSIONS:
        raise fault("", f"{version} is unknown to this release, which supports {', '.join(map(str, TABLE_VERSIONS))}")
    return version


def _power_of_two(rows: int) -> int:
    if rows & (rows - 1):
        raise fault("", f"{rows} is not a power of two")
    return rows


Rows = Annotated[int, Field(strict=True), within(4096, 262_144), AfterValidator(_power_of_two)]
# A row has room for 8, but the walk through a chain of 8 may run out of hops (tests/proof/test_next_hop_walk.py).
Chain = Annotated[int, Field(strict=True), within(1, 7)]
TableVersion = Annotated[int, Field(strict=True), AfterValidator(_known)]


class PreviousConfig(Section):
    """The cluster's previous table; what is absent did not change. `key_file: null`: there was no file."""

    rows: Rows | None = None
    chain: Chain | None = None
    version: TableVersion | None = None
    key_file: Path | None = None


class TableConfig(Section):
    """What decides a row. It must be the same on every node; the epochs that each node tells show when it is not.

    `key_file` holds the cluster's secret as 32 hex digits, so that outsiders cannot compute which flows share a server.
    A relative path starts at lb.yml's folder. Without it the key derives from the cluster's number, which others may
    guess. `version` is that of the algorithm from members to rows, by default the newest that this release supports.

    While `previous` is set, nodes look flows up in both tables, and new flows use the previous one until every live
    member has the new one.

    With `claims` nodes that hold connections which a row's chain does not name have a place after it; without, growth
    of a cluster to twice its size breaks 4 to 6 % of its connections. All nodes must have the same.
    """

    rows: Rows = 65_536
    chain: Chain = 4
    version: TableVersion = TABLE_VERSIONS[-1]
    key_file: Path | None = None
    previous: PreviousConfig | None = None
    claims: Annotated[bool, Field(strict=True)] = True


class Config(Section):
    """The whole of lb.yml."""

    cluster: Annotated[int, Field(strict=True), within(1, 4_294_967_295)]
    node: NodeConfig
    services: Annotated[tuple[ServiceConfig, ...], Field(min_length=1, max_length=250)]  # the data path has 255 slots
    bgp: BgpConfig
    members: MembersConfig
    xdp: XdpConfig = XdpConfig()
    table: TableConfig = TableConfig()
    deny: tuple[AnyNetwork, ...] = ()
    """Prefixes whose packets to VIPs are dropped; `lbctl deny` adds to them at run time."""
    other_protocols: Literal["pass", "drop"] = "pass"
    """What happens to packets to VIPs that are neither TCP, UDP nor ICMP (ESP, AH, SCTP, GRE): the kernel of the node
    that the router chose gets them, or nobody does."""
    class_e_clients: Switch = False
    """Whether clients may have addresses of 240.0.0.0/4, which are reserved (RFC 1112); else their packets are
    dropped as martian."""

    _secret: bytes | None = PrivateAttr(default=None)
    _previous_secret: bytes | None = PrivateAttr(default=None)
    _member_keys: tuple[bytes, ...] = PrivateAttr(default=())

    @field_validator("cluster")
    @classmethod
    def _reserved(cls, value: int) -> int:
        # RFC 8092 section 3: reserved global administrators; the cluster's number is one.
        if value in (65_535, 4_294_967_295):
            raise fault("", f"{value} is reserved by RFC 8092; choose another")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: dict[Hashable, int] = {}
        for i, service in enumerate(self.services):
            for key, field in (
                (service.name, "name"),
                (service.key, "port"),
            ):
                if key in seen:
                    other = f"services[{seen[key]}]"
                    same = f"is the same as that of {other}"
                    raise fault(f"services[{i}].{field}", same, other=f"{other}.{field}")
                seen[key] = i
            if service.vip in self.bgp.identity_prefix:
                raise fault(f"services[{i}].vip", f"{service.vip} is in bgp.identity_prefix, which is for identities")
            if any(service.vip in allowed for allowed in self.members.allow):
                raise fault(f"services[{i}].vip", f"{service.vip} is in members.allow, which is for nodes")
            if any(service.vip == peer.address for peer in self.bgp.peers):
                raise fault(f"services[{i}].vip", f"{service.vip} is a BGP peer's address")
            if self.bgp.allow and not any(service.vip in allowed for allowed in self.bgp.allow):
                raise fault(f"services[{i}].vip", f"{service.vip} is in no prefix of bgp.allow")
            self._check_announce(i, service)
            self._check_instances(i, service)
        self._check_tags()
        self._check_static()
        if self.node.address6 and not any(self.node.address6 in allowed for allowed in self.members.allow):
            raise fault("node.address6", f"{self.node.address6} is in no prefix of members.allow")
        return self

    def _check_announce(self, i: int, service: ServiceConfig) -> None:
        announce = service.announce
        if announce is None:
            return
        for j, other in enumerate(self.services[:i]):
            if other.vip == service.vip and other.announce not in (None, announce):
                differs = f"differs from that of services[{j}] for the same VIP"
                raise fault(f"services[{i}].announce", differs, other=f"services[{j}].announce")
        for k, community in enumerate(announce.large_communities):
            if community[0] == self.cluster:
                where = f"services[{i}].announce.large_communities[{k}]"
                raise fault(where, "starts with the cluster's number, reserved for identities")

    def _check_instances(self, i: int, service: ServiceConfig) -> None:
        """Check that a port has one setting: a server that listens on all addresses serves all VIPs."""
        if service.instances is None:
            return
        for j, other in enumerate(self.services[:i]):
            same = (other.protocol, other.port) == (service.protocol, service.port)
            if same and other.instances not in (None, service.instances):
                differs = f"differs from that of services[{j}], which has the same port"
                raise fault(f"services[{i}].instances", differs, other=f"services[{j}].instances")

    def _check_tags(self) -> None:
        """Check that no two nodes can have the same tag: identities and markers name a node by it."""
        taken: list[tuple[range, IPv4Network, str]] = []
        for i, network in enumerate(self.members.allow):
            if not isinstance(network, IPv4Network):
                continue
            where = f"members.allow[{i}]"
            if network.prefixlen < 16:
                raise fault(where, f"{network} is larger than a /16: nodes in it could share their low 16 bits")
            if network.overlaps(self.bgp.identity_prefix):
                raise fault(where, f"{network} overlaps bgp.identity_prefix, which must not contain nodes")
            first = int(network.network_address) & 0xFFFF
            tags = range(first, first + network.num_addresses)
            for others, network_of_others, other in taken:
                if tags.start < others.stop and others.start < tags.stop and network != network_of_others:
                    same = f"{network} and {network_of_others} hold nodes with the same low 16 bits"
                    raise fault(where, same, other=other)
            taken.append((tags, network, where))

    def _check_static(self) -> None:
        for i, address in enumerate(self.members.static):
            where = f"members.static[{i}]"
            if address in self.vips:
                raise fault(where, f"{address} is a VIP; list the nodes' own addresses")
            if any(address == peer.address for peer in self.bgp.peers):
                raise fault(where, f"{address} is a BGP peer's address; list the nodes' own addresses")
            if not any(address in allowed for allowed in self.members.allow):
                raise fault(where, f"{address} is in no prefix of members.allow")

    @property
    def vips(self) -> tuple[Address, ...]:
        """Every VIP once, in the file's order."""
        return tuple(dict.fromkeys(service.vip for service in self.services))

    @property
    def allowed(self) -> tuple[Network, ...]:
        """The prefixes that the routes of VIPs must be in."""
        return self.bgp.allow or tuple(ip_network(vip) for vip in self.vips)

    def announce_of(self, vip: Address) -> AnnounceConfig:
        """Return the attributes of a VIP's routes."""
        found = (service.announce for service in self.services if service.vip == vip and service.announce)
        return next(found, AnnounceConfig())

    def with_secrets(self, now: bytes | None, previous: bytes | None, members: tuple[bytes, ...]) -> Self:
        """Return a copy with the contents of its key files, 16 bytes a key: the two tables' and the members'."""
        config = self.model_copy()
        config._secret, config._previous_secret, config._member_keys = now, previous, members
        return config

    @property
    def channel_keys(self) -> tuple[bytes, ...]:
        """The keys of what nodes send each other: the first signs, all are accepted. Empty: no other node is accepted.

        With `key: none` it is one that anybody can compute from the cluster's number.
        """
        if self.members.key:
            return (hashlib.sha256(b"anylb public channel key %d" % self.cluster).digest()[:16],)
        return self._member_keys

    @property
    def hash_key(self) -> bytes:
        """The secret of the flow hash, 16 bytes, the same on every node of the cluster."""
        return self._secret or self._derived_key

    @property
    def previous_key(self) -> bytes | None:
        """The secret of the previous epoch's flow hash; None if there is no previous epoch."""
        if self.table.previous is None:
            return None
        if "key_file" not in self.table.previous.model_fields_set:
            return self.hash_key
        return self._previous_secret or self._derived_key

    @property
    def _derived_key(self) -> bytes:
        return hashlib.sha256(b"anylb flow hash %d" % self.cluster).digest()[:16]
