# SPDX-License-Identifier: Apache-2.0
"""What the NAT program is given, from the configuration and from which backends take new sessions. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from agent.address import Address
from agent.config.service import AFFINITIES, ServiceConfig
from agent.errors import AgentError
from agent.nat.backend import BackendKey
from agent.nat.choice import ChoiceTable
from bpf.layout.nat_backend import BACKENDS, Balance, Choice, NatServiceEntry

Place = tuple[Address, int]
"""A backend's address and port: sessions refer to it by index, whatever service they are of."""


def backend_indexes(before: Mapping[Place, int], wanted: Iterable[Place]) -> dict[Place, int]:
    """Return the indexes of all backends: known ones keep theirs, since sessions refer to them, and new ones get
    the lowest that are free. Raises AgentError if there are too few."""
    found = dict(before)
    free = iter(sorted(set(range(1, BACKENDS)) - set(before.values())))
    for place in wanted:
        if place not in found:
            index = next(free, None)
            if index is None:
                step = "sessions with backends that left the configuration must end first"
                raise AgentError(f"there is no room for more than {BACKENDS - 1} backends: {step}")
            found[place] = index
    return found


class ServiceChoice:
    """How new sessions of one service choose among its backends."""

    def __init__(self, service: ServiceConfig) -> None:
        self._balance, self._affinity = Balance[service.balance.upper()], AFFINITIES[service.affinity]
        keys = {BackendKey(service.key, one.address, one.port): one.weight for one in service.backends}
        self._weights = {key: weight for key, weight in keys.items() if weight}
        self._by_name = {key.name: key for key in self._weights}
        self._table = ChoiceTable({key.name: weight for key, weight in self._weights.items()})

    @property
    def keys(self) -> Collection[BackendKey]:
        """The backends that may take new sessions: those with a weight."""
        return self._weights.keys()

    def entry(self, usable: Collection[BackendKey], indexes: Mapping[Place, int]) -> NatServiceEntry:
        """Return what the program is given if only these backends take new sessions."""
        if self._balance in (Balance.HASH, Balance.WEIGHTED):
            names, places = self._table.names, self._table.among({key.name for key in usable}).tolist()
            chosen = [self._by_name[names[place]] for place in places if place >= 0]
        else:
            chosen = [key for key in self._weights if key in usable]
        choices = [Choice(indexes[key.address, key.port], self._weights[key]) for key in chosen]
        return NatServiceEntry(self._balance, self._affinity, tuple(choices))
