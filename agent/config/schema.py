# SPDX-License-Identifier: Apache-2.0
"""The schema of lb.yml, and the rules between its sections. Pure; reading the file is file.py's.

`node:`, `services:`, `bgp:`, `members:`, `nat:` and `table:` have a module each, with the rules within it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from agent.address import Address, Announced, Network
from agent.config.bgp import AnnounceConfig, BgpConfig
from agent.config.fields import AnyNetwork, Section, Switch, fault, given, within
from agent.config.instances import shares_a_match
from agent.config.members import MembersConfig
from agent.config.metrics import MetricsConfig
from agent.config.nat import (
    MAX_BACKENDS,
    NatConfig,
    Taken,
    check_pools,
    former_pools,
    former_sessions,
    require_room,
    resized_pools,
)
from agent.config.node import NodeConfig
from agent.config.service import ServiceConfig
from agent.config.table import TableConfig


class XdpConfig(Section):
    """How the data path attaches."""

    # An unquoted off is a boolean in YAML 1.1.
    mode: Annotated[
        Literal["auto", "native", "generic", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = "auto"
    """How the program attaches: `native` in the driver, `generic` in the network stack (slower, any interface), `auto`
    the first that works. With `off` the node is plain anycast: it announces, and forwards nothing. Example:
    `native`."""


class Config(Section):
    """The whole of lb.yml."""

    cluster: Annotated[int, Field(strict=True), within(1, 4_294_967_295)]
    """The cluster's number, the same on all its nodes. Identities carry it, so two clusters on one fabric never mix.
    Example: `4242`."""
    node: NodeConfig
    """This node's interfaces and addresses. Example: `{interface: eth1}`."""
    services: Annotated[tuple[ServiceConfig, ...], Field(min_length=1, max_length=250)]  # the data path has 255 slots
    """What is balanced: one entry for each VIP, protocol and port."""
    bgp: BgpConfig
    """The BGP sessions of this node."""
    members: MembersConfig
    """Who may be a node, and how nodes ask each other."""
    xdp: XdpConfig = XdpConfig()
    """How the data path attaches. Example: `{mode: native}`."""
    metrics: MetricsConfig = MetricsConfig()
    """Where Prometheus finds the node's metrics. Example: `{listen: "10.0.0.11:9742"}`."""
    table: TableConfig = TableConfig()
    """What decides which node owns a row: the same on every node."""
    nat: Annotated[NatConfig | None, BeforeValidator(given)] = None
    """NAT for services of `mode: nat`. Without it there is none. Example: `{pool: 10.255.0.0/27}`."""
    deny: tuple[AnyNetwork, ...] = ()
    """Prefixes whose packets to VIPs are dropped; `lbctl deny` adds to them at run time. Example:
    `[203.0.113.0/24]`."""
    other_protocols: Literal["pass", "drop"] = "pass"
    """What happens to packets to VIPs that are neither TCP, UDP nor ICMP (ESP, AH, SCTP, GRE): the kernel of the node
    that the router chose gets them, or none does. Example: `drop`."""
    class_e_clients: Switch = False
    """Whether clients may have addresses of 240.0.0.0/4, which are reserved (RFC 1112). Otherwise their packets are
    dropped as martian. Example: `true`."""

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
        self._check_nat()
        if self.nat:
            check_pools("nat", self.nat, self._taken())
            if number := former_sessions(self.nat, self.table.previous.nat if self.table.previous else None):
                require_room("nat", self.nat, number)
            if (self.former_pools or self.resized_pools) and self.table.previous and self.table.previous.nat:
                check_pools("table.previous.nat", self.table.previous.nat, self._taken())
            self._check_communities("nat.announce", self.nat.announce or AnnounceConfig())
        if self.node.address6 and not any(self.node.address6 in allowed for allowed in self.members.allow):
            raise fault("node.address6", f"{self.node.address6} is in no prefix of members.allow")
        return self._with_forward_of_nat()

    def _with_forward_of_nat(self) -> Self:
        """Return a copy in which NAT services have the `forward` of all of them, so that who reads it need not ask."""
        if self.nat is None:
            return self
        change = {"forward": self.nat.forward}
        services = tuple(one.model_copy(update=change) if one.mode == "nat" else one for one in self.services)
        return self.model_copy(update={"services": services})

    def _check_announce(self, i: int, service: ServiceConfig) -> None:
        announce = service.announce
        if announce is None:
            return
        for j, other in enumerate(self.services[:i]):
            if other.vip == service.vip and other.announce not in (None, announce):
                differs = f"differs from that of services[{j}] for the same VIP"
                raise fault(f"services[{i}].announce", differs, other=f"services[{j}].announce")
        self._check_communities(f"services[{i}].announce", announce)

    def _check_communities(self, where: str, announce: AnnounceConfig) -> None:
        for k, community in enumerate(announce.large_communities):
            if community[0] == self.cluster:
                why = "starts with the cluster's number, reserved for identities"
                raise fault(f"{where}.large_communities[{k}]", why)

    def _check_instances(self, i: int, service: ServiceConfig) -> None:
        """Check that a pool has one setting: a server that listens on all addresses serves all VIPs."""
        own = service.instances
        for j, other in enumerate(self.services[:i]):
            if own is None or other.instances is None:
                continue
            why = None
            if other.pool == service.pool:
                if other.instances.model_copy(update={"steer": own.steer}) != own:
                    why = f"differs from that of services[{j}], whose servers have the same port"
            elif "auto" in (service.steer, other.steer) and shares_a_match(own, other.instances):
                why = f"has servers of services[{j}] too, so auto is not certain; set steer of both to ADDRESS:PORT"
            if why:
                raise fault(f"services[{i}].instances", why, other=f"services[{j}].instances")

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

    def _check_nat(self) -> None:
        count = 0
        for i, service in self.nat_services:
            where = f"services[{i}]"
            if self.nat is None:
                raise fault(f"{where}.mode", "nat needs a section nat: with a pool, as {pool: 10.255.0.0/27}")
            if self.nat.pool_of(service.vip.version) is None:
                pool = "pool" if service.vip.version == 4 else "pool6"
                missing = f"has no {pool}, which {where}.vip {service.vip} needs; add it"
                raise fault("nat", missing, other=f"{where}.vip")
            if self.xdp.mode == "off":
                raise fault("xdp.mode", f"is off, and {where} needs the data path for NAT; remove one", other=where)
            for j, backend in enumerate(service.backends):
                self._check_backend(f"{where}.backends[{j}].address", backend.address)
            count += len(service.backends)
            if count > MAX_BACKENDS:
                many = f"makes {count} of all services, more than {MAX_BACKENDS}; remove some"
                raise fault(f"{where}.backends", many)

    def _check_backend(self, where: str, address: Address) -> None:
        own = "give the server's own address"
        if address in self.vips:
            raise fault(where, f"{address} is a VIP; {own}")
        if address in self.bgp.identity_prefix:
            raise fault(where, f"{address} is in bgp.identity_prefix, which is for identities; {own}")
        if any(address == peer.address for peer in self.bgp.peers):
            raise fault(where, f"{address} is a BGP peer's address; {own}")
        for i, denied in enumerate(self.deny):
            if address in denied:
                why = f"{address} is in {denied}, whose packets are dropped, and so are its answers; remove one"
                raise fault(where, why, other=f"deny[{i}]")

    def _taken(self) -> Iterator[Taken]:
        """Yield all prefixes with a use that the pool must not have."""
        for i, service in enumerate(self.services):
            yield Taken(f"services[{i}].vip", ip_network(service.vip), "a VIP")
            hop = service.announce.next_hop if service.announce else None
            if hop is not None:
                yield Taken(f"services[{i}].announce.next_hop", ip_network(hop), "a next hop")
            for j, backend in enumerate(service.backends):
                yield Taken(f"services[{i}].backends[{j}].address", ip_network(backend.address), "a backend")
        if self.nat and self.nat.announce and self.nat.announce.next_hop:
            yield Taken("nat.announce.next_hop", ip_network(self.nat.announce.next_hop), "a next hop")
        for i, network in enumerate(self.members.allow):
            yield Taken(f"members.allow[{i}]", network, "where the nodes are")
        for name in ("address", "address6"):
            if (address := getattr(self.node, name)) is not None:
                yield Taken(f"node.{name}", ip_network(address), "this node's address")
        yield Taken("bgp.identity_prefix", self.bgp.identity_prefix, "which is for identities")
        for i, peer in enumerate(self.bgp.peers):
            yield Taken(f"bgp.peers[{i}].address", ip_network(peer.name), "a BGP peer")
            if peer.source is not None:
                yield Taken(f"bgp.peers[{i}].source", ip_network(peer.source), "this node's end of a session")
        for i, network in enumerate(self.deny):
            yield Taken(f"deny[{i}]", network, "whose packets are dropped")

    @property
    def nat_services(self) -> tuple[tuple[int, ServiceConfig], ...]:
        """The services of mode nat, each with its index in `services`."""
        return tuple((i, service) for i, service in enumerate(self.services) if service.mode == "nat")

    @property
    def local_vips(self) -> tuple[Address, ...]:
        """The VIPs that are on lo, where sockets of this node serve them: not those of NAT services alone."""
        return tuple(dict.fromkeys(service.vip for service in self.services if service.mode == "dsr"))

    @property
    def foreign(self) -> tuple[Network, ...]:
        """The prefixes that are announced, but no address of any node: the pools, and VIPs of NAT services alone."""
        vips = (ip_network(vip) for vip in self.vips if vip not in self.local_vips)
        return (*self.pool_prefixes, *vips)

    @property
    def forwards(self) -> frozenset[str]:
        """How packets get from node to node: l2, ipip, gue."""
        return frozenset(service.forward for service in self.services)

    @property
    def vips(self) -> tuple[Address, ...]:
        """Every VIP once, in the file's order."""
        return tuple(dict.fromkeys(service.vip for service in self.services))

    @property
    def pools(self) -> tuple[Network, ...]:
        """The prefixes of NAT: at most one for each family, and the former ones."""
        return (*(self.nat.pools if self.nat else ()), *self.former_pools)

    @property
    def former_pools(self) -> tuple[Network, ...]:
        """The former pools, whose sessions go on: new ones get no address of these once all nodes have the new
        pool."""
        return former_pools(self.nat, self.table.previous.nat if self.table.previous else None)

    @property
    def resized_pools(self) -> tuple[Network, ...]:
        """The prefixes that the pools had before, if they only became larger or smaller."""
        return resized_pools(self.nat, self.table.previous.nat if self.table.previous else None)

    @property
    def pool_prefixes(self) -> tuple[Network, ...]:
        """The prefixes of NAT that this node may announce."""
        return (*self.pools, *self.resized_pools)

    @property
    def former_sessions(self) -> int | None:
        """The former number of sessions, if sessions that began with it go on: those of another key do not."""
        previous = self.table.previous
        number = former_sessions(self.nat, previous.nat if previous else None)
        return number if self.previous_key == self.hash_key else None

    @property
    def session_slots(self) -> int:
        """The slots of sessions that this node has: as many as `nat.sessions`, or as there were."""
        return max(self.nat.sessions if self.nat else 0, self.former_sessions or 0)

    @property
    def allowed(self) -> tuple[Network, ...]:
        """The prefixes that the routes of VIPs must be in."""
        return self.bgp.allow or tuple(ip_network(vip) for vip in self.vips)

    @property
    def announced(self) -> tuple[Announced, ...]:
        """Everything that a node with this configuration may announce besides its identity."""
        return (*self.vips, *self.pool_prefixes)

    def announce_of(self, one: Announced) -> AnnounceConfig:
        """Return the attributes of the routes of a VIP or a pool."""
        if self.nat and isinstance(one, IPv4Network | IPv6Network):
            return self.nat.announce_of(one)
        found = (service.announce for service in self.services if service.vip == one and service.announce)
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
