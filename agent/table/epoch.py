# SPDX-License-Identifier: Apache-2.0
"""Epochs: everything that decides a flow's row and its chain, as one number; and which of two a node uses. Pure.

A node supports one epoch, or two: what its configuration says, and what `table.previous` says that it was before. It
looks into the rows of both, so that connections made under either are found. Which one new flows go by follows from
the view alone: the new one as soon as every live member supports it, the previous one until then.

How the two rows of a packet are put together depends on the others (`Use.alternating`); bpf/reference/pick.py has the reasons,
tests/proof/test_two_epochs_walk.py the steps of a switch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.model import Member, State, epoch_of
from bgp.community import service_id

if TYPE_CHECKING:
    from agent.config.schema import Config

ARM_S: Final = 2.0
"""How long all rows are in grace before a node changes what it uses. Nodes hear of a change within a tenth of that, so
when the first of them acts, none is left that would answer a packet that it cannot place with a reset."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One way from a flow, and the members of its service, to a chain. `number` names it on all nodes."""

    number: int
    version: int
    """Of the way from members to rows; see algorithm.py."""
    rows: int
    chain: int
    key: bytes = field(repr=False)
    """Of the flow hash."""


@dataclass(frozen=True, slots=True)
class EpochUse:
    """How a node uses the epochs that it supports.

    `first` is the one that new flows go by. `alternating`: its places and the other's take turns, for all live members
    look into both; else the other's come last, where those that know only `first` miss nothing by not having them.
    """

    first: int
    alternating: bool = False

    def towards(self, wanted: EpochUse) -> EpochUse:
        """The next step on the way there: either the first epoch changes or how the rows are joined, never both.

        The first changes only while both alternate: in that mixture of nodes both owners are reached all the same.
        """
        if wanted.first == self.first:
            return wanted
        return EpochUse(wanted.first if self.alternating else self.first, alternating=True)


@dataclass(frozen=True, slots=True)
class EpochSwitch:
    """What a node uses, and what it is about to use since when (CLOCK_MONOTONIC seconds)."""

    use: EpochUse
    next: EpochUse | None = None
    since: float = 0.0

    def after(self, wanted: EpochUse, now: float) -> EpochSwitch:
        """The stance when `wanted` is what the view asks for now."""
        if wanted == self.use:
            return EpochSwitch(self.use)
        step = self.use.towards(wanted)
        if step != self.next:
            return EpochSwitch(self.use, step, now)
        return EpochSwitch(step) if now - self.since >= ARM_S else self


def supported(config: Config) -> tuple[Epoch, ...]:
    """The epochs that a node with this configuration supports: the one that it prefers, then the previous one."""
    table, previous = config.table, config.table.previous
    kinds = [(service_id(s.vip, s.protocol, s.port_number), s.affinity, s.hash) for s in config.services]

    def epoch(version: int, rows: int, chain: int, key: bytes) -> Epoch:
        return Epoch(epoch_of(version, rows, chain, key, kinds), version, rows, chain, key)

    now = epoch(table.version, table.rows, table.chain, config.hash_key)
    if previous is None or config.previous_key is None:
        return (now,)
    rows, chain = previous.rows or table.rows, previous.chain or table.chain
    return now, epoch(previous.version or table.version, rows, chain, config.previous_key)


def choose(own: Sequence[int], members: Iterable[Member]) -> EpochUse:
    """What a node that supports the epochs `own` (the preferred one first) is to use among these members.

    All nodes with the same view choose the same. Lost members do not count, they make no new connections; nor do those
    that have no epoch in common with this node: no choice of it would help them, and they are told to the operator.
    """
    if len(own) == 1:
        return EpochUse(own[0])
    preferred, previous = own
    live = [member.supports for member in members if member.state not in (State.LOST, State.LEFT)]
    related = [supports for supports in live if supports & {preferred, previous}]
    if not all(preferred in supports for supports in related):
        return EpochUse(previous)
    return EpochUse(preferred, alternating=all(previous in supports for supports in related))


def incompatible_members(own: Collection[int], members: Iterable[Member]) -> list[Member]:
    """Members that have no epoch in common with this node: they and it can only disagree on owners."""
    return [member for member in members if not member.supports & set(own)]
