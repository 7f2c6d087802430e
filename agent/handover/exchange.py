# SPDX-License-Identifier: Apache-2.0
"""The hand-over of one node, carried out: its decisions, its sessions, and the streams to the others. I/O.

hand_over.py decides, session_store.py reads and writes the maps, item.py has the form of what is sent. What comes and
goes by the channel, and when chains change, is node/session_hand_over.py's.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.handover.hand_over import HandOver, Order, SendPull, SendRecords, wanted
from agent.handover.item import Codec, End, Kind, Pull, Sessions, UnknownOrigin
from agent.handover.record import Records, version_of
from agent.handover.row_move import Chains, rows_of
from agent.handover.sent_log import SentLog
from agent.handover.session_store import SessionStore
from agent.handover.stored import Slots, ages_of
from bpf.layout.nat import NAT_ROWS
from bpf.maps.session_map import now_tick

BATCH: Final = 21 * 16
"""Records that are read at once."""


SKEW_TICKS: Final = 2
"""For so long a row whose sessions another node has sent here may belong to this node by the other's table alone."""


class Count(enum.StrEnum):
    """What is counted: sessions, but for `malformed` (items, too) and `unanswered` (pulls)."""

    SENT = "sent"
    TAKEN = "taken"
    MERGED = "merged"
    """Those that this node had already."""
    DROPPED = "dropped"
    """Over, and their slots were used again."""
    RESET = "reset"
    """Those that an older session of the same slot displaced, here or by another node's request."""
    BUSY = "busy"
    DECLINED = "declined"
    """Those of a service or backend that this node does not know."""
    FREED = "freed"
    """Those that their owners have since."""
    MALFORMED = "malformed"
    UNANSWERED = "unanswered"


class Exchange:
    """One node's part in the hand-overs. `own` is the number of its address, `pulls` the map by row of `NatMaps`;
    `stream(node, items)` sends items to a node, in order; `tick` is the clock of stamps."""

    def __init__(
        self,
        own: int,
        store: SessionStore,
        codec: Codec,
        pulls: NDArray[np.uint64],
        stream: Callable[[int, Iterable[bytes]], None],
        tick: Callable[[], int] = now_tick,
    ) -> None:
        self.counters: Counter[Count] = Counter()
        self.faults: dict[int, str] = {}
        """What is wrong with the last item of a node."""
        self._store, self._codec, self._pulls = store, codec, pulls
        self._stream, self._tick = stream, tick
        self._hand_over = HandOver(own)
        self._log = SentLog(len(store))
        self._received_at = np.full(NAT_ROWS, -SKEW_TICKS - 1, np.int64)
        """By row, the tick of the last sessions from other nodes."""

    @property
    def chains(self) -> Chains | None:
        """The chains that are written."""
        return self._hand_over.chains

    def begin(self, chains: Chains, answering: Collection[int], now: float) -> None:
        """Pull the rows that these chains give to this node: they are written next."""
        self._carry_out(self._hand_over.begin(chains, answering, now))
        self.await_answers(now)

    def finish(self) -> None:
        """Push the rows that they take from it: they are written."""
        before = self._hand_over.chains
        orders = self._hand_over.finish(self._tick())
        chains = self._hand_over.chains
        if before is not None and chains is not None:
            self._log.forget(before[:, 0] != chains[:, 0])
        self._carry_out(orders)

    def leave(self) -> None:
        """Answer pulls from now on as if this node owned nothing: it is about to end."""
        self._carry_out(self._hand_over.leave(self._tick()))

    def pull_all(self, answering: Collection[int], now: float) -> None:
        """Pull all rows of this node: others did not reach it for a while."""
        self._carry_out(self._hand_over.pull_all(answering, now))
        self.await_answers(now)

    def await_answers(self, now: float) -> None:
        """Write until when rows are awaited; call it at `now` and later, so that unanswered pulls are counted."""
        until = self._hand_over.awaited(now, NAT_ROWS)
        self._pulls[:] = (until * 1e9).astype(np.uint64)
        self.counters[Count.UNANSWERED] = self._hand_over.unanswered

    def overdue(self, now: float) -> set[int]:
        """Return the nodes that have not answered for long."""
        return self._hand_over.overdue(now)

    def forget(self, node: int) -> None:
        """Forget what a node was sent: it has another session."""
        self._hand_over.forget(node)

    def receive(self, node: int, payloads: Sequence[bytes], now: float) -> None:
        """Take the next items of a node, in order."""
        contents: dict[tuple[Kind, int, int], list[bytes]] = {}
        requests: list[Pull | End] = []
        unknown: dict[tuple[int, int, bool], list[Records]] = {}
        fault = ""
        for payload in payloads:
            try:
                item = self._codec.decode(payload)
            except ValueError as error:
                self.counters[Count.MALFORMED] += 1
                fault = str(error)
                if isinstance(error, UnknownOrigin):
                    of_origin = version_of(error.records), error.number, error.same_pool
                    unknown.setdefault(of_origin, []).append(error.records)
                    self._stream(node, [error.answer])
                continue
            if isinstance(item, Sessions):
                contents.setdefault((item.kind, item.version, item.origin), []).append(item.content)
            else:
                requests.append(item)
        for (_, number, same_pool), declined in unknown.items():
            for refused in self._reserve(np.concatenate(declined), same_pool):
                self._stream(node, self._codec.of_origin(refused, Kind.REFUSED, number))
        for (kind, version, origin), some in contents.items():
            records, wrong, why = self._codec.records(version, b"".join(some), origin)
            self.counters[Count.MALFORMED] += wrong
            fault = fault or why
            self._take(node, kind, records)
        for request in requests:
            self._carry_out(self._hand_over.receive(node, request, self._tick()))
        if requests:
            self.await_answers(now)
        if fault:
            self.faults[node] = fault
        else:
            self.faults.pop(node, None)

    def sweep(self, idle: Collection[int]) -> None:
        """Send sessions of rows that others own to these, and free those that they have. Call it each second.

        `idle` are the nodes that answer and have acknowledged everything: others get theirs later.
        """
        chains, tick = self._hand_over.chains, self._tick()
        if chains is None:
            return
        rows = np.isin(chains[:, 0], list(idle)) & (tick - self._received_at > SKEW_TICKS)
        slots = self._store.used(rows)
        self._log.forget(rows, but=slots)
        if not len(slots):
            return
        tags = self._store.tags(slots)
        ages, owners = ages_of(tags, tick), chains[rows_of(slots), 0]
        unsent = self._log.unsent(slots, ages, tick)
        for owner in np.unique(owners[unsent]).tolist():
            self._stream(owner, self._items(owner, slots[unsent & (owners == owner)]))
        settled = self._log.settled(slots, ages, tick)
        self.counters[Count.FREED] += self._store.free(slots[settled], tags[settled])

    def _take(self, node: int, kind: Kind, records: Records) -> None:
        tick = self._tick()
        if kind is Kind.REFUSED:
            self.counters[Count.RESET] += self._store.reset(records, tick)
            return
        if kind is Kind.DECLINED:
            self._log.keep(records["slot"].astype(np.int64), tick)
            return
        self._received_at[rows_of(records["slot"].astype(np.int64))] = tick
        done = self._store.write(records, tick)
        numbers = (done.taken, done.merged, done.dropped, done.reset, done.busy)
        for count, number in zip(_WRITTEN, numbers, strict=True):
            self.counters[count] += number
        self.counters[Count.DECLINED] += sum(map(len, done.declined))
        for some in done.declined:
            done.refused += self._reserve(some)
        for answer, returned in ((Kind.REFUSED, done.refused), (Kind.DECLINED, done.declined)):
            for some in returned:
                self._stream(node, self._codec.sessions(some, answer))

    def _reserve(self, declined: Records, same_pool: bool = True) -> list[Records]:
        """Reserve the slots of sessions that this node cannot take; return which of them their holder is to reset."""
        done = self._store.reserve(declined, self._tick(), same_pool)
        self.counters[Count.RESET] += done.reset
        return done.refused

    def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if isinstance(order, SendPull):
                self._stream(order.node, [self._codec.pull(order.pull.number, order.pull.rows)])
            elif isinstance(order, SendRecords):
                self._stream(order.node, self._items_of_rows(order))
            else:
                self._stream(order.node, [self._codec.end(order.number)])

    def _items_of_rows(self, order: SendRecords) -> Iterator[bytes]:
        """Return the items of an order, with the sessions as they are when each is sent."""
        yield from self._items(order.node, self._store.used(order.rows), order.since)

    def _items(self, node: int, slots: Slots, since: NDArray[np.int64] | None = None) -> Iterator[bytes]:
        """Return the items with the sessions of these slots; `since` is by row, as in an order."""
        for at in range(0, len(slots), BATCH):
            tick, some = self._tick(), slots[at : at + BATCH]
            rows, chains = rows_of(some), self._hand_over.chains
            if chains is not None:
                self._log.note(some[chains[rows, 0] == node], tick)
            if since is not None:
                some = some[wanted(ages_of(self._store.tags(some), tick), since[rows], tick)]
            for records in self._store.read(some, tick):
                self.counters[Count.SENT] += len(records)
                yield from self._codec.sessions(records)


_WRITTEN = (Count.TAKEN, Count.MERGED, Count.DROPPED, Count.RESET, Count.BUSY)
