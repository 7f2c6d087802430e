# SPDX-License-Identifier: Apache-2.0
"""The rules between the sections of lb.yml: no two of them may contradict each other. Pure.

Owns these rules only: those within a section are in the section's module.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

from agent.address import Address, Network
from agent.config.bgp import AnnounceConfig, BgpConfig
from agent.config.fields import fault
from agent.config.instances import shares_a_match
from agent.config.members import MembersConfig
from agent.config.nat import (
    MAX_BACKENDS,
    NatConfig,
    PoolConfig,
    Taken,
    check_pools,
    former_pools,
    former_sessions,
    require_room,
    resized_pools,
)
from agent.config.node import NodeConfig
from agent.config.service import ServiceConfig
from agent.config.xdp import XdpConfig


@dataclass(frozen=True, slots=True)
class Sections:
    """The sections that have rules between them. `previous`: `table.previous.nat`."""

    cluster: int
    node: NodeConfig
    services: tuple[ServiceConfig, ...]
    bgp: BgpConfig
    members: MembersConfig
    xdp: XdpConfig
    nat: NatConfig | None
    previous: PoolConfig | None
    deny: tuple[Network, ...]

    def check(self) -> None:
        """Raise the error of the first contradiction."""
        self._check_services()
        self._check_tags()
        self._check_static()
        self._check_nat_services()
        if self.nat:
            self._check_pools(self.nat)
        if self.node.address6 and not any(self.node.address6 in allowed for allowed in self.members.allow):
            raise fault("node.address6", f"{self.node.address6} is in no prefix of members.allow")

    def _check_services(self) -> None:
        seen: dict[Hashable, int] = {}
        for i, service in enumerate(self.services):
            for key, field in ((service.name, "name"), (service.key, "port")):
                if key in seen:
                    other = f"services[{seen[key]}]"
                    same = f"is the same as that of {other}"
                    raise fault(f"services[{i}].{field}", same, other=f"{other}.{field}")
                seen[key] = i
            self._check_vip(f"services[{i}].vip", service.vip)
            self._check_announce(i, service)
            self._check_instances(i, service)

    def _check_vip(self, where: str, vip: Address) -> None:
        if vip in self.bgp.identity_prefix:
            raise fault(where, f"{vip} is in bgp.identity_prefix, which is for identities")
        if any(vip in allowed for allowed in self.members.allow):
            raise fault(where, f"{vip} is in members.allow, which is for nodes")
        if any(vip == peer.address for peer in self.bgp.peers):
            raise fault(where, f"{vip} is a BGP peer's address")
        if self.bgp.allow and not any(vip in allowed for allowed in self.bgp.allow):
            raise fault(where, f"{vip} is in no prefix of bgp.allow")

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
            if any(address == service.vip for service in self.services):
                raise fault(where, f"{address} is a VIP; list the nodes' own addresses")
            if any(address == peer.address for peer in self.bgp.peers):
                raise fault(where, f"{address} is a BGP peer's address; list the nodes' own addresses")
            if not any(address in allowed for allowed in self.members.allow):
                raise fault(where, f"{address} is in no prefix of members.allow")

    def _check_nat_services(self) -> None:
        count = 0
        for i, service in enumerate(self.services):
            where = f"services[{i}]"
            if service.mode != "nat":
                continue
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
        if any(address == service.vip for service in self.services):
            raise fault(where, f"{address} is a VIP; {own}")
        if address in self.bgp.identity_prefix:
            raise fault(where, f"{address} is in bgp.identity_prefix, which is for identities; {own}")
        if any(address == peer.address for peer in self.bgp.peers):
            raise fault(where, f"{address} is a BGP peer's address; {own}")
        for i, denied in enumerate(self.deny):
            if address in denied:
                why = f"{address} is in {denied}, whose packets are dropped, and so are its answers; remove one"
                raise fault(where, why, other=f"deny[{i}]")

    def _check_pools(self, nat: NatConfig) -> None:
        check_pools("nat", nat, self._taken())
        if number := former_sessions(nat, self.previous):
            require_room("nat", nat, number)
        if self.previous and (former_pools(nat, self.previous) or resized_pools(nat, self.previous)):
            check_pools("table.previous.nat", self.previous, self._taken())
        self._check_communities("nat.announce", nat.announce or AnnounceConfig())

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
