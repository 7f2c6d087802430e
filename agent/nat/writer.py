# SPDX-License-Identifier: Apache-2.0
"""The writer of the NAT program's maps: its conf, how services balance, the backends, and the next hops.

Backends that left the configuration keep their index and their next hop as long as this node has sessions with them.
The rows are forwarding/map_writer.py's; sessions are not written here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from agent.address import Address, endpoint
from agent.config.schema import Config
from agent.forwarding.egress import mss_limit_of
from agent.forwarding.next_hop import NextHop
from agent.nat.backend import BackendKey, backends_of
from agent.nat.change import given, gives_former
from agent.nat.entries import Place, ServiceChoice, backend_indexes
from agent.netlink.batch import sample
from agent.problem import Problem, ProblemLine
from bpf.layout.nat import NatConf
from bpf.layout.nat_backend import BACKENDS, BackendEntry, NatHop, NatServiceEntry
from bpf.layout.service import Forward
from bpf.maps.nat_maps import NatMaps

RETIRE_S: Final = 120.0
"""How long a backend that left the configuration must be without sessions before its index is free: a closed session
is kept for a minute."""
Usable = Mapping[str, Collection[BackendKey]]
"""The backends that take new sessions, by service name."""
_CLIENTS: Final = {4: BACKENDS, 6: BACKENDS + 1}
"""The indexes of the next hops to clients, by IP version; that to a backend has the backend's index."""

NO_ROUTE = Problem(
    "there is no route to {what}",
    "add one: nothing can be sent there",
    "The kernel's route to a backend, or by which NAT sends answers to clients, is missing on this node.",
)
NO_NEXT_HOP = Problem(
    "the next hop to {what} does not answer, so nothing can be sent there",
    "see whether it is up (`ip neigh`)",
    "The route is there; its router, or the backend itself on the same segment, answers neither ARP nor neighbor "
    "discovery.",
)
UNLISTED = Problem(
    "{what} are reached by an interface without the program",
    "list it in node.interfaces",
    "Translated packets leave from XDP, which sends only on an interface that has a program.",
)


class NatWriter:
    """The writer of one node. `apply` writes what changes; `set_hop` follows the kernel's routes."""

    def __init__(self, config: Config, maps: NatMaps, slots: Mapping[str, int], table: int) -> None:
        """Take over what an earlier agent left. `slots`: those of services by name; `table`: that of the sessions."""
        assert config.nat is not None
        self._config, self._maps, self._slots = config, maps, slots
        services = [service for _, service in config.nat_services]
        self._choices = {service.name: ServiceChoice(service) for service in services}
        written = maps.backends()
        self._wanted: set[Place] = {(key.address, key.port) for key in backends_of(config)}
        self.indexes = backend_indexes({(one.address, one.port): index for index, one in written.items()}, self._wanted)
        """By address and port."""
        self.usable: Usable = self._chosen()
        """The backends that take new sessions; at first, those under the agent before."""
        self._clients = {
            version: sample(prefixes[0])
            for version in sorted({service.vip.version for service in services})
            if (prefixes := config.node.client_prefixes(version))
        }
        """An address of clients by IP version, to look up the route to them."""
        used = (*self.indexes.values(), *_CLIENTS.values())
        self._hops = {index: hop for index in used if (hop := maps.hop(index)) is not None}
        self._written = dict(written)
        self._entries: dict[str, NatServiceEntry] = {}
        self._conf, self._is_written = self._first_conf(table), False
        self._idle_since: dict[Place, float] = {}

    def _first_conf(self, table: int) -> NatConf:
        nat, before = self._config.nat, self._maps.conf()
        assert nat is not None
        hops = {version: _CLIENTS[version] for version in self._clients}
        conf = NatConf(
            table=table, forward=Forward[nat.forward.upper()], up=before is not None and before.up,
            hop4=hops.get(4, 0), hop6=hops.get(6, 0), **given(self._config, gives_former(before, self._config)),
        )  # fmt: skip
        return conf if before is None else replace(conf, mss4=before.mss4, mss6=before.mss6)

    def _chosen(self) -> dict[str, frozenset[BackendKey]]:
        by_index = {index: place for place, index in self.indexes.items()}
        return {
            service.name: frozenset(
                BackendKey(service.key, *by_index[choice.backend])
                for choice in self._maps.service(self._slots[service.name]).choices
                if choice.backend in by_index
            )
            for _, service in self._config.nat_services
        }

    # Next hops

    def _hop_indexes(self) -> dict[Address, int]:
        """Return the first index of the next hop to each address."""
        backends = {address: index for (address, _), index in self.indexes.items()}
        return {**backends, **{address: _CLIENTS[version] for version, address in self._clients.items()}}

    @property
    def targets(self) -> frozenset[Address]:
        """The addresses whose next hops the program needs."""
        return frozenset(self._hop_indexes())

    def known_hop(self, target: Address) -> NextHop | None:
        """Return the next hop of an address in the maps."""
        hop = self._hops.get(self._hop_indexes().get(target, 0))
        return None if hop is None else NextHop(hop.mac, True, hop.ifindex, hop.source, hop.vlan, hop.mtu)

    def set_hop(self, target: Address, hop: NextHop) -> None:
        """Set the next hop of an address. It stays until another is set."""
        entry = NatHop(hop.mac, hop.ifindex, hop.source, hop.vlan, hop.mtu)
        indexes = [index for (address, _), index in self.indexes.items() if address == target]
        indexes += [_CLIENTS[version] for version, address in self._clients.items() if address == target]
        for index in indexes:
            if self._hops.get(index) != entry:
                self._maps.write_hop(index, entry)
                self._hops[index] = entry

    # The rest

    def apply(self, up: bool, usable: Usable, from_former: bool = False) -> None:
        """Write what differs. `up`: this node takes new sessions; `usable`: the backends that do, by service name;
        `from_former`: new sessions get the former pool, or number, still.

        Order: backends, then the choices that name them.
        """
        self.usable = usable
        self._write_conf(replace(self._conf, up=up, **given(self._config, from_former)))
        for place in self._wanted:
            index = self.indexes[place]
            entry = BackendEntry(*place, index)
            if self._written.get(index) != entry:
                self._maps.write_backend(index, entry)
                self._written[index] = entry
        for name, choice in self._choices.items():
            new = choice.entry(usable.get(name, ()), self.indexes)
            if new != self._entries.get(name):
                self._maps.write_service(self._slots[name], new)
                self._entries[name] = new

    def set_mtu(self, mtu: int) -> None:
        """Lower the MSS of new sessions to what fits into the tunnels between nodes, given the least MTU of these."""
        nat = self._config.nat
        assert nat is not None
        outer = 6 if self._config.members.outer == "ipv6" else 4
        mss4, mss6 = (mss_limit_of(version, nat.forward, outer, mtu) or 0 for version in (4, 6))
        self._write_conf(replace(self._conf, mss4=mss4, mss6=mss6))

    def _write_conf(self, conf: NatConf) -> None:
        if conf != self._conf or not self._is_written:
            self._maps.write_conf(conf)
            self._conf, self._is_written = conf, True

    def reaches(self, key: BackendKey) -> bool:
        """Whether packets get to a backend from here: never to one on this node itself."""
        hop = self._hops.get(self.indexes[key.address, key.port])
        return hop is not None and hop.mac is not None

    def active(self, key: BackendKey) -> int:
        """Return how many sessions this node has with a backend, of all services."""
        return self._maps.load(self.indexes[key.address, key.port]).active

    def retire(self, now: float) -> bool:
        """Free the indexes of backends that left the configuration and have had no session for RETIRE_S; return
        whether there were any. `now` is CLOCK_MONOTONIC seconds."""
        gone = False
        for place in self.indexes.keys() - self._wanted:
            index = self.indexes[place]
            if self._maps.load(index).active:
                self._idle_since.pop(place, None)
            elif now - self._idle_since.setdefault(place, now) >= RETIRE_S:
                self._maps.write_backend(index, None)
                self._maps.write_hop(index, None)
                for known in (self._written, self._hops):
                    known.pop(index, None)
                del self.indexes[place], self._idle_since[place]
                gone = True
        return gone

    def problems(self, uplinks: Collection[int]) -> list[ProblemLine]:
        """Return why packets do not get to backends or clients. `uplinks`: the interfaces that have the program."""
        found = []
        for place in sorted(self._wanted, key=lambda one: (one[0].version, int(one[0]), one[1])):
            line = _hop_problem(f"backend {endpoint(*place)}", self._hops.get(self.indexes[place]), uplinks)
            found += [line] if line else []
        for version in self._clients:
            line = _hop_problem(f"IPv{version} clients of NAT", self._hops.get(_CLIENTS[version]), uplinks)
            found += [line] if line else []
        return found


def _hop_problem(what: str, hop: NatHop | None, uplinks: Collection[int]) -> ProblemLine | None:
    if hop is None:
        return NO_ROUTE.line(what=what)
    if hop.mac is None:
        return NO_NEXT_HOP.line(what=what)
    if hop.ifindex and hop.ifindex not in uplinks:
        return UNLISTED.line(what=what)
    return None
