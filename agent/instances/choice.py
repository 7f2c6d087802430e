# SPDX-License-Identifier: Apache-2.0
"""Which instance gets new connections. Pure: from what listens, and what the operator wants, to the cells of the maps.

`decide` orders the instances of a service and gives each a weight. `cells` writes that down for one group of listeners:
each of the cells that a connection's hash leads to has a list of slots, the first choice first. The next ones count
when the first is closed: the kernel finds them without the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.config.instances import InstancesConfig
from bpf.layout.instance import CELLS, PLACES


@dataclass(frozen=True, slots=True)
class Instance:
    """One server: a process with its children, or a unit."""

    name: str
    pids: tuple[int, ...]
    """The first is the one that it was found by."""
    weight: int = 100
    cookies: frozenset[int] = frozenset()
    """Its listeners that have a slot."""
    healthy: bool | None = None
    """Whether it answered its last check; None if it was not asked yet, or is never."""


@dataclass(frozen=True, slots=True)
class OperatorChoice:
    """What the operator wants, by the names of instances."""

    preferred: str | None = None
    """`lbctl instance switch` made it the active one: it stays that until it no longer listens."""
    drained: frozenset[str] = frozenset()
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Active:
    """The instance of policy standby that takes new connections, with its listeners: a restarted one has others."""

    name: str
    cookies: frozenset[int]

    def is_still(self, instance: Instance) -> bool:
        """Return whether the instance has been listening since."""
        return instance.name == self.name and bool(instance.cookies & self.cookies)


@dataclass(frozen=True, slots=True)
class Decision:
    """`shares`: instances in the order in which they are tried, with weights that divide new connections."""

    shares: tuple[tuple[Instance, int], ...] = ()
    active: Active | None = None
    """Of policy standby only."""

    def weight(self, name: str) -> int:
        """Return an instance's weight in the division; 0: it takes new connections only if all before it are gone."""
        return next((weight for instance, weight in self.shares if instance.name == name), 0)


def decide(
    config: InstancesConfig, instances: Sequence[Instance], operator: OperatorChoice, before: Active | None
) -> Decision:
    """Return the order and weights of these instances, given the primary first; `before` is who was active.

    Drained instances are in no list. If all are drained the list is empty, and the kernel chooses. Those that fail
    their check come last, as do those that were not asked yet beside healthy ones; all count alike if none is better.
    """
    present = [one for one in instances if one.cookies and one.name not in operator.drained]
    if not present:
        return Decision()
    best = max(_RANK[one.healthy] for one in present)
    takers = [one for one in present if _RANK[one.healthy] == best]
    rest = [(one, 0) for one in present if _RANK[one.healthy] < best]
    if config.policy == "standby":
        first = _first(takers, operator.preferred, config.failback, before)
        others = [(one, 0) for one in takers if one is not first]
        return Decision(((first, 1), *others, *rest), Active(first.name, first.cookies))
    if config.policy == "spread":
        return Decision((*((one, 1) for one in takers), *rest))
    weighted = [(one, operator.weights.get(one.name, one.weight)) for one in takers]
    weighted.sort(key=lambda share: -share[1])
    if not weighted[0][1]:  # rather than to the kernel's choice, which counts drained ones
        weighted = [(one, 1) for one, _ in weighted]
    return Decision((*weighted, *rest))


_RANK: Final[Mapping[bool | None, int]] = {True: 2, None: 1, False: 0}
"""How good an instance is, by its health."""


def _first(takers: Sequence[Instance], preferred: str | None, failback: bool, before: Active | None) -> Instance:
    """Return who is active. One that has restarted has lost its turn: the kernel went on to the next by itself."""
    still = next((one for one in takers if before is not None and before.is_still(one)), None)
    if still is not None and (not failback or still.name == preferred):
        return still
    if failback or before is None:
        return takers[0]
    return next((one for one in takers if one.name != before.name), takers[0])


def cells(shares: Sequence[tuple[int, Sequence[int]]]) -> list[tuple[int, ...]]:
    """Return the slots of each cell. `shares`: by instance in order, its weight and its listeners' slots in the group.

    An instance's cells are in proportion to its weight, to within one, and at least one if it has a weight; they go
    round its listeners. Each cell then lists a second listener of the same instance, and one of each other.
    """
    present = [(weight, slots) for weight, slots in shares if slots]
    if not present:
        return [()] * CELLS
    if not any(weight for weight, _ in present):
        present[0] = (1, present[0][1])
    counts = _apportion([weight for weight, _ in present])
    found: list[tuple[int, ...]] = []
    for owner, count in enumerate(counts):
        others = [slots for i, (_, slots) in enumerate(present) if i != owner]
        found += [_cell(cell, present[owner][1], others) for cell in range(count)]
    return found


def _cell(number: int, own: Sequence[int], others: Sequence[Sequence[int]]) -> tuple[int, ...]:
    first = [own[(number + i) % len(own)] for i in range(min(2, len(own)))]
    return (*first, *(slots[number % len(slots)] for slots in others))[:PLACES]


def _apportion(weights: Sequence[int]) -> list[int]:
    """Return how many cells each weight gets, by largest remainders."""
    total = sum(weights)
    exact = [weight * CELLS / total for weight in weights]
    counts = [max(int(part), int(weight > 0)) for part, weight in zip(exact, weights, strict=True)]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: max(0, CELLS - sum(counts))]:
        counts[i] += 1
    while sum(counts) > CELLS:  # many small weights got one each
        counts[counts.index(max(counts))] -= 1
    return counts
