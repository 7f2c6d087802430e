# SPDX-License-Identifier: Apache-2.0
"""Which instance gets new connections. Pure: from what listens, and what the operator wants, to the cells of the maps.

`decide` orders the instances of a service and gives each a weight. `cells` writes that down for one group of listeners:
each of the cells that a connection's hash leads to has a list of slots, the first choice first. The next ones count
when the first is closed: the kernel finds them without the agent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

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
    cpus: Mapping[int, int] = field(default_factory=dict)
    """The CPU whose connections a listener gets, by cookie; empty: they have none."""
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
    """The instance that gets new connections; only policy standby has one."""

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


class Share(NamedTuple):
    """What an instance has in one group of listeners."""

    weight: int
    slots: Sequence[int]
    """The slots of its listeners."""
    by_cpu: Mapping[int, int] = {}
    """The slot that gets what a CPU handles; empty: connections go round all."""


def cells(shares: Sequence[Share], cpu: int = 0) -> list[tuple[int, ...]]:
    """Return the slots of each cell, for connections that a CPU handles. `shares`: of the instances, in order.

    An instance's cells are in proportion to its weight, to within one, and at least one if it has a weight; they go
    round its listeners, or lead to the CPU's. Each cell then lists a second listener of the same instance, and one of
    each other.
    """
    present = [share for share in shares if share.slots]
    if not present:
        return [()] * CELLS
    counts = _apportion([share.weight for share in present] if any(share.weight for share in present) else [1])
    orders = [_Order.of(share, cpu) for share in present]
    found: list[tuple[int, ...]] = []
    for owner, count in enumerate(counts):
        others = orders[:owner] + orders[owner + 1 :]
        for cell in range(count):
            rest = [slot for other in others for slot in other.slots(cell, 1)]
            found.append((*orders[owner].slots(cell, 2), *rest)[:PLACES])
    return found


class _Order(NamedTuple):
    """The order of an instance's slots: those that come first in all of its cells, and those that cells go round."""

    first: tuple[int, ...]
    rest: Sequence[int]

    @classmethod
    def of(cls, share: Share, cpu: int) -> Self:
        own = share.by_cpu.get(cpu)
        return cls((), share.slots) if own is None else cls((own,), [slot for slot in share.slots if slot != own])

    def slots(self, cell: int, count: int) -> list[int]:
        """Return so many slots for a cell."""
        turned = (self.rest[(cell + i) % len(self.rest)] for i in range(min(count, len(self.rest))))
        return [*self.first, *turned][:count]


def cpus_of(cookies: Sequence[int], bound: Mapping[int, int], pinned: Collection[int]) -> dict[int, int]:
    """Return the CPU whose connections each listener of an instance gets, by cookie; empty: they have none.

    `cookies`: its listeners of one address, in the order in which they were made; `bound`: the CPU that the server gave
    a listener (SO_INCOMING_CPU); `pinned`: the CPUs that its threads are bound to, each to one. Servers that bind
    threads, and not listeners, make the listeners in the order of the CPUs.
    """
    given = {one: bound[one] for one in cookies if one in bound}
    if len(set(given.values())) == len(cookies):
        return given
    return dict(zip(cookies, sorted(pinned), strict=True)) if 1 < len(pinned) == len(cookies) else {}


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
