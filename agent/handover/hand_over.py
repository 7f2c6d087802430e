# SPDX-License-Identifier: Apache-2.0
"""The hand-over of rows, as one node sees it: which nodes it asks, what it sends to which, how long it waits. Pure.

    hand_over = HandOver(own)
    orders = hand_over.begin(chains, answering, now), before these chains are written
    orders = hand_over.finish(tick), once they are
    orders = hand_over.receive(node, item, tick), for each Pull and End
    hand_over.awaited(now): until when this node creates sessions of a row only where no owner does

1. A node pulls the rows that move to it from all nodes of their old and new chains that answer. It waits for all
   answers, at most `PULL_S`; later ones count as well. A node without old chains (it booted, or others did not reach
   it) pulls all its rows.
2. A holder sends what is asked for at once. It ends its answer when its own chains no longer name it as the owner of
   one of the rows: before that it may create sessions there. Then it sends once more what has changed since.
3. At a change of its own chains a holder pushes the rows that move to others, also without being asked: it may hold
   sessions of rows in whose chains it is no more.
4. What was sent within `RESEND_TICKS` is sent again only if it had packets since.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.handover.item import End, Pull
from agent.handover.row_move import Chains, Rows, asked_nodes, owned, pulled_rows, pushed_rows

PULL_S: Final = 0.5
OVERDUE_S: Final = 10.0
"""After this time a node that has not answered is a problem: its table names itself as an owner, or its agent hangs."""
FORGOTTEN_S: Final = 60.0
RESEND_TICKS: Final = 10
NEVER: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class SendPull:
    """Ask a node for its records."""

    node: int
    pull: Pull


@dataclass(frozen=True, slots=True, eq=False)
class SendRecords:
    """Send a node the records of these rows: those with packets since the row's tick, or all if that is NEVER."""

    node: int
    rows: Rows
    since: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SendEnd:
    """End the answer to a node's pull, after all records that were ordered before."""

    node: int
    number: int


Order = SendPull | SendRecords | SendEnd


@dataclass(slots=True, eq=False)
class _OwnPull:
    """A pull of this node: who has not answered it yet, and until when it waits."""

    rows: Rows
    asked: set[int]
    until: float
    late: bool = False


@dataclass(slots=True)
class HandOver:
    """The hand-overs to and from one node. `own` is the number of its address."""

    own: int
    chains: Chains | None = None
    """The chains that are written; None before the first."""
    _next: Chains | None = None
    """Those that are being written."""
    _leaves: bool = False
    unanswered: int = 0
    """Pulls that were not answered by all in time."""
    _number: int = 0
    _pulls: dict[int, _OwnPull] = field(default_factory=dict)
    _asked: dict[tuple[int, int], Pull] = field(default_factory=dict)
    """The pulls of others that are not ended, by node and number."""
    _sent: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """When each row was sent to each node, in ticks."""

    def begin(self, chains: Chains, answering: Collection[int], now: float) -> list[Order]:
        """Take the chains that are written next; `answering` are the nodes that can be asked."""
        self._next = chains
        return self._pull(self.chains, chains, answering, now)

    def finish(self, tick: int) -> list[Order]:
        """Note that they are written."""
        if self._next is None:
            return []
        old, chains = self.chains, self._next
        self.chains, self._next = chains, None
        orders: list[Order] = []
        moved = pushed_rows(old, chains, self.own) if old is not None else {}
        still_owned = owned(chains, self.own)
        ended = [asked for asked, pull in self._asked.items() if not (pull.rows & still_owned).any()]
        for node in sorted(moved.keys() | {node for node, _ in ended}):
            rows = moved.get(node, np.zeros(len(chains), np.bool_))
            numbers = [number for one, number in ended if one == node]
            for number in numbers:
                rows = rows | self._asked.pop((node, number)).rows
            orders.append(self._send(node, rows, tick))
            orders += [SendEnd(node, number) for number in numbers]
        return orders

    def leave(self, tick: int) -> list[Order]:
        """End the answers to all pulls from now on, though this node's chains name it: it is about to end."""
        self._leaves = True
        orders: list[Order] = []
        for (node, number), pull in self._asked.items():
            orders += [self._send(node, pull.rows, tick), SendEnd(node, number)]
        self._asked = {}
        return orders

    def pull_all(self, answering: Collection[int], now: float) -> list[Order]:
        """Pull all rows of this node: others did not reach it for a while, and served its rows."""
        return self._pull(None, self.chains, answering, now) if self.chains is not None else []

    def receive(self, node: int, item: Pull | End, tick: int) -> list[Order]:
        """Take a pull of another node, or the end of its answer."""
        if isinstance(item, End):
            if (pull := self._pulls.get(item.number)) is not None:
                pull.asked.discard(node)
                if not pull.asked:
                    del self._pulls[item.number]
            return []
        orders: list[Order] = [self._send(node, item.rows, tick)]
        if self.chains is not None and not self._leaves and (item.rows & owned(self.chains, self.own)).any():
            self._asked[node, item.number] = item
            return orders
        return [*orders, SendEnd(node, item.number)]

    def forget(self, node: int) -> None:
        """Forget what a node was sent, and what it asked for: it has another session, or is followed no more."""
        self._sent.pop(node, None)
        self._asked = {asked: pull for asked, pull in self._asked.items() if asked[0] != node}

    def awaited(self, now: float, rows: int) -> NDArray[np.float64]:
        """Return until when each row's records may still arrive; 0 where none is awaited."""
        until = np.zeros(rows)
        for pull in self._pulls.values():
            if now < pull.until:
                until[pull.rows] = np.maximum(until[pull.rows], pull.until)
            elif not pull.late:
                pull.late = True
                self.unanswered += 1
        self._pulls = {number: pull for number, pull in self._pulls.items() if now < pull.until + FORGOTTEN_S}
        return until

    def overdue(self, now: float) -> set[int]:
        """Return the nodes that have not answered for `OVERDUE_S`. A node that owns rows which this node gave up again
        meanwhile need not answer: its chains may never have named another owner."""
        chains = self.chains if self._next is None else self._next
        old = [pull for pull in self._pulls.values() if now >= pull.until - PULL_S + OVERDUE_S]
        if chains is None or not old:
            return set()
        mine = owned(chains, self.own)
        return set().union(*(pull.asked for pull in old if not (pull.rows & ~mine).any()))

    def _pull(self, old: Chains | None, chains: Chains, answering: Collection[int], now: float) -> list[Order]:
        rows = pulled_rows(old, chains, self.own)
        asked = asked_nodes(old, chains, rows, self.own) & set(answering)
        if not asked:
            return []
        self._number += 1
        self._pulls[self._number] = _OwnPull(rows, asked, now + PULL_S)
        return [SendPull(node, Pull(self._number, rows)) for node in sorted(asked)]

    def _send(self, node: int, rows: Rows, tick: int) -> SendRecords:
        sent = self._sent.setdefault(node, np.full(len(rows), NEVER, np.int64))
        since = np.where((sent >= 0) & (tick - sent <= RESEND_TICKS), sent - 1, NEVER)
        sent[rows] = tick
        return SendRecords(node, rows, since)


def wanted(ages: NDArray[Any], since: NDArray[np.int64], tick: int) -> NDArray[np.bool_]:
    """Return which sessions are to be sent, by their ticks since the last packet and the ticks of their rows."""
    found: NDArray[np.bool_] = (since == NEVER) | (ages <= tick - since)
    return found
