# SPDX-License-Identifier: Apache-2.0
"""Epochs: everything that decides a flow's row and its chain, as one number; and which of two a node uses. Pure.

A node supports one epoch, or two: that of its configuration, and the one before, which `table.previous` describes. It
reads the rows of both, so that it finds connections of either. The view alone decides which one new flows use: the
new one as soon as every live member supports it, the previous one until then.

How the two rows of a packet are joined depends on the other members (`EpochUse.alternating`);
bpf/reference/pick.py gives the reasons, tests/proof/test_two_epochs_walk.py the steps of a switch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.model import Member, State

TABLE_VERSIONS: tuple[int, ...] = (1, 2)
"""The versions of the table algorithms that this release knows, the newest last; algorithm.py has the algorithms. An
algorithm that makes other rows from the same members has another version, which is part of the epoch."""

CHANGED_IN: dict[str, tuple[int, ...]] = {"rendezvous": (1,), "maglev": (1, 2)}
"""By a service's `hash`, the versions that have rows of their own for it; algorithm.py has these by the same numbers.
Who builds no tables needs no numpy for them, whose import would be a quarter of the start of `lbctl bgp run`."""

ARM_S: Final = 2.0
"""How long all rows are in grace before a node changes its use of epochs. Other nodes learn of a change within a tenth
of that, so when the first node switches, no node answers a packet that it cannot place with a reset."""


def since(version: int, hash_name: str) -> int:
    """Return the first version that makes the rows of this one for services of this hash."""
    return max(one for one in CHANGED_IN[hash_name] if one <= version)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One mapping from a flow, and the members of its service, to a chain. `number` names it on all nodes."""

    number: int
    version: int
    """Of the table algorithm; see TABLE_VERSIONS."""
    rows: int
    chain: int
    key: bytes = field(repr=False)
    """The secret of the flow hash."""


def epoch_number(
    version: int, rows: int, chain: int, hash_key: bytes, services: Iterable[tuple[str, str, str]], sessions: str = ""
) -> int:
    """Return one 32-bit number over everything that decides a row; nodes that differ in it would disagree on owners.

    `services` are (service, affinity, hash). Those with the default affinity and hash do not count, so that nodes
    may serve different services. `sessions` is what decides the sessions of NAT, as text; "" without NAT.
    """
    unusual = sorted(kind for kind in services if kind[1:] != ("5-tuple", "rendezvous"))
    text = f"table {version} rows {rows} chain {chain} key {hash_key.hex()} services {unusual}"
    text += f" {sessions}" if sessions else ""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


@dataclass(frozen=True, slots=True)
class EpochUse:
    """How a node uses the epochs that it supports.

    New flows use `first`. With `alternating`, its places and those of the other epoch take turns, because all live
    members read both; otherwise the other's places come last, where members that know only `first` do not miss them.
    """

    first: int
    alternating: bool = False

    def towards(self, wanted: EpochUse) -> EpochUse:
        """Return the next step towards `wanted`: it changes the first epoch or how the rows are joined, never both.

        The first epoch changes only while both alternate: then both owners are reached although nodes differ.
        """
        if wanted.first == self.first:
            return wanted
        return EpochUse(wanted.first if self.alternating else self.first, alternating=True)


@dataclass(frozen=True, slots=True)
class EpochSwitch:
    """A node's use of the epochs, and the next one that it waits for since `since` (CLOCK_MONOTONIC seconds)."""

    use: EpochUse
    next: EpochUse | None = None
    since: float = 0.0

    def after(self, wanted: EpochUse, now: float) -> EpochSwitch:
        """Return the state of the switch when the view asks for `wanted` now."""
        if wanted == self.use:
            return EpochSwitch(self.use)
        step = self.use.towards(wanted)
        if step != self.next:
            return EpochSwitch(self.use, step, now)
        return EpochSwitch(step) if now >= self.next_at else self

    @property
    def next_at(self) -> float:
        """When time alone takes the next step: CLOCK_MONOTONIC seconds; infinity if nothing is next."""
        return self.since + ARM_S if self.next is not None else float("inf")


def choose(own: Sequence[int], members: Iterable[Member]) -> EpochUse:
    """Return how a node that supports the epochs `own` (the preferred one first) uses them among these members.

    All nodes with the same view choose the same. Lost members do not count, since they make no new connections; nor do
    members that share no epoch with this node: no choice would help them, and the operator gets a problem for each.
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
    """Return the members that share no epoch with this node: they and it can only disagree on owners."""
    return [member for member in members if not member.supports & set(own)]
