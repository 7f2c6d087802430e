# SPDX-License-Identifier: Apache-2.0
"""The sessions of this node in the mmapped maps, which are read as records that travel, and written from such. I/O.

The program and the timers change tags at the same time: a tag changes by compare-and-exchange, and a record is written
while its tag is BUSY. stored.py has both forms; merge.py decides what becomes of two records of a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.handover.item import Origin
from agent.handover.merge import Outcome, merged, outcomes
from agent.handover.record import Records, backend_keys, identities, service_keys, version_of
from agent.handover.row_move import Rows
from agent.handover.stored import Slots, StoredForm, Tags, age_of, are_ipv6, as_bytes, states_of, tags_of
from agent.sessions.cause import Cause, OnChange
from bpf.kernel import atomic
from bpf.layout.nat import NAT_ROWS
from bpf.layout.session import WAYS, SessionState, Tag, TagFlag
from bpf.maps.session_map import SessionMap

_ATTEMPTS: Final = 5
"""Of a write: the program changes a tag at most once a tick, but for changes of its state."""
_STAMP: Final = np.uint64(0xFFFF_FFFF)
"""Of a tag; a free one has nothing else."""
_LIVE: Final = (SessionState.SYN, SessionState.EST, SessionState.FIN)
_ENDED: Final = (SessionState.FREE, SessionState.CLOSED, SessionState.RESERVED)
_RESERVED: Final = np.uint64(SessionState.RESERVED)
_MOST_ROWS: Final = NAT_ROWS // 4
"""To read the tags of all rows is faster than to gather those of more."""
_COUNTED_TAKES: Final = (Outcome.TAKE, Outcome.TAKE_AND_RESET)


@dataclass(slots=True)
class Written:
    """What became of records from another node. `refused` and `declined` go back to it: an older session has the slot;
    this node does not know the backend."""

    taken: int = 0
    merged: int = 0
    dropped: int = 0
    reset: int = 0
    """This node's own sessions that gave way to older ones."""
    busy: int = 0
    """Slots that others changed all the time."""
    refused: list[Records] = field(default_factory=list)
    declined: list[Records] = field(default_factory=list)


class SessionStore:
    """The sessions of one node. `origins` are by IP version, as records name them (item.py); `loads` counts the
    sessions of backends (`NatMaps.loads`)."""

    def __init__(
        self, sessions: SessionMap, origins: Mapping[int, Sequence[Origin]], loads: NDArray[np.uint64]
    ) -> None:
        self._sessions, self._loads, self._form = sessions, loads, StoredForm(origins)
        self.services: Mapping[bytes, int] = {}
        self.backends: Mapping[bytes, int] = {}
        """The slots of the services and the indexes of the backends that this node knows (keys: record.py)."""
        self.on_change: OnChange | None = None
        """Called with each change of a session's state here."""

    def __len__(self) -> int:
        return len(self._sessions)

    def used(self, rows: Rows) -> Slots:
        """Return the slots of these rows that have a session."""
        if np.count_nonzero(rows) > _MOST_ROWS:
            found = np.flatnonzero(self._sessions.tags > _STAMP)
            found = found[rows[found // WAYS % NAT_ROWS]]
        else:
            numbers = np.flatnonzero(rows)
            gathered = np.flatnonzero(self._sessions.tags.reshape(-1, NAT_ROWS, WAYS)[:, numbers] > _STAMP)
            place, way = np.divmod(gathered, WAYS)
            bucket, row = np.divmod(place, len(numbers))
            found = (bucket * NAT_ROWS + numbers[row]) * WAYS + way
        tags = self._sessions.tags[found]
        slots: Slots = found[(tags > _STAMP) & (tags >> np.uint64(40) != _RESERVED)]
        return slots

    def tags(self, slots: Slots) -> Tags:
        """Return the tags of slots."""
        return self._sessions.tags[slots]

    def read(self, slots: Slots, tick: int) -> list[Records]:
        """Return the records of these slots that have one, by family. `tick` is the present one."""
        tags = self._sessions.tags[slots]
        ipv6 = are_ipv6(tags)
        found = []
        for version, chosen in ((4, ~ipv6), (6, ipv6)):
            some = slots[chosen]
            if len(some):
                stored = self._stored(version)[some]
                after = self._sessions.tags[some]
                same = after >> np.uint64(48) == tags[chosen] >> np.uint64(48)
                records = self._form.records(version, some, after, stored, tick)
                has_record = (records["state"] >= SessionState.SYN) & (records["state"] <= SessionState.CLOSED)
                found.append(records[same & has_record])
        return found

    def write(self, records: Records, tick: int) -> Written:
        """Take records of another node."""
        done = Written()
        places = self._places(records)
        known = places.all(axis=1)
        if not known.all():
            done.declined.append(records[~known])
            records, places = records[known], places[known]
        for _ in range(_ATTEMPTS):
            if len(records):
                again = self._attempt(records, places, tick, done)
                records, places = records[again], places[again]
        done.busy = len(records)
        return done

    def reserve(self, records: Records, tick: int, same_pool: bool = True) -> Written:
        """Give the slots of another node's live sessions, which this node cannot take, to no new session for a while
        (scan.py), where none lives here: two sessions would have one endpoint. Return what was reset and refused.

        A session that lives here keeps its slot, unless both have one endpoint and one backend: of these the younger
        one is reset, as of sessions that can be taken. With another pool than the slots' here no endpoint is the same.
        The records of reserved slots are cleared: what arrives at an endpoint is no longer for the session that had it
        here before.
        """
        live = records[np.isin(records["state"], _LIVE) & (records["slot"] < len(self))]
        done = self._part(live, tick) if same_pool and len(live) else Written()
        slots = np.unique(live["slot"]).astype(np.int64)
        tags = self._sessions.tags[slots]
        ended = np.isin(states_of(tags), _ENDED)
        slots, tags = slots[ended], tags[ended]
        busy, reserved = (
            np.full(len(slots), Tag(0, state, TagFlag(0), tick & int(_STAMP)).pack(), np.uint64)
            for state in (SessionState.BUSY, SessionState.RESERVED)
        )
        claimed = atomic.compare_exchange(self._sessions.tags, slots, tags, busy)
        some, before = slots[claimed], tags[claimed]
        stored = self._sessions.sessions4
        stored.view(np.uint8).reshape(len(stored), -1)[some] = 0
        atomic.compare_exchange(self._sessions.tags, some, busy[claimed], reserved[claimed])
        closed = states_of(before) == SessionState.CLOSED
        self._report(some[closed], before[closed], before[closed] & _STAMP, Cause.DISPLACED)
        return done

    def _part(self, records: Records, tick: int) -> Written:
        """Of two live sessions with one endpoint and one backend, this node's and one that it cannot take, free this
        node's if it is the younger one, else refuse the other."""
        version = version_of(records)
        if version == 6 and self._sessions.sessions6 is None:
            return Written()
        # Of several of one slot the last: a record that waited for a link has the ages of when it was sent.
        _, last = np.unique(records["slot"][::-1], return_index=True)
        records = records[len(records) - 1 - last]
        slots = records["slot"].astype(np.int64)
        tags = self._sessions.tags[slots]
        own, nat = self._own(version, slots, tags, tick), as_bytes(self._stored(version)["nat"][slots])
        same = np.isin(own["state"], _LIVE) & (nat == self._form.nat_addresses(version, slots, records["origin"])).all(
            axis=1
        )
        for name in ("backend", "backend_port", "protocol"):
            same &= (own[name] == records[name]).reshape(len(records), -1).all(axis=1)
        choice = outcomes(own, records)
        younger, refused = same & np.isin(choice, _COUNTED_TAKES), same & (choice == Outcome.REFUSE)
        reset = self.free(slots[younger], tags[younger], Cause.DISPLACED)
        return Written(reset=reset, refused=[records[refused]] if refused.any() else [])

    def free(self, slots: Slots, tags: Tags, cause: Cause = Cause.HANDED_OVER) -> int:
        """Free slots whose tags are still these; return how many. A free slot keeps its stamp."""
        backends = self._backends(slots, tags)
        freed = atomic.compare_exchange(self._sessions.tags, slots, tags, tags & _STAMP)
        self._count(backends[freed], states_of(tags[freed]), -1)
        self._report(slots[freed], tags[freed], tags[freed] & _STAMP, cause)
        return int(freed.sum())

    def reset(self, records: Records, tick: int) -> int:
        """Free the slots of these sessions, if they have them; return how many."""
        slots = records["slot"].astype(np.int64)
        tags = self._sessions.tags[slots]
        own = self._own(version_of(records), slots, tags, tick)
        same = (identities(own) == identities(records)).all(axis=1) & np.isin(own["state"], _LIVE)
        return self.free(slots[same], tags[same], Cause.DISPLACED)

    def _attempt(self, records: Records, places: NDArray[np.int64], tick: int, done: Written) -> NDArray[np.bool_]:
        """Try to write; return which records are to be tried again."""
        version, slots = version_of(records), records["slot"].astype(np.int64)
        tags = self._sessions.tags[slots]
        own = self._own(version, slots, tags, tick)
        choice = outcomes(own, records)
        again: NDArray[np.bool_] = choice == Outcome.WAIT
        take, merge, refuse = np.isin(choice, _COUNTED_TAKES), choice == Outcome.MERGE, choice == Outcome.REFUSE
        if take.any():
            taken = np.flatnonzero(take)[self._take(records[take], places[take], tags[take], own[take], tick)]
            done.taken += len(taken)
            done.reset += int((choice[taken] == Outcome.TAKE_AND_RESET).sum())
            take[taken] = False
            again |= take
        if merge.any():
            written = np.flatnonzero(merge)[self._merge(records[merge], tags[merge], own[merge], tick)]
            done.merged += len(written)
            merge[written] = False
            again |= merge
        if refuse.any():
            done.refused.append(records[refuse])
        done.dropped += int((choice == Outcome.DROP).sum())
        return again

    def _take(
        self, records: Records, places: NDArray[np.int64], tags: Tags, own: Records, tick: int
    ) -> NDArray[np.bool_]:
        """Write records into slots that have these tags; return which were written."""
        slots = records["slot"].astype(np.int64)
        busy = records.copy()
        busy["state"], busy["stamp_age"] = SessionState.BUSY, 0
        claimed = atomic.compare_exchange(self._sessions.tags, slots, tags, tags_of(busy, tick))
        some = slots[claimed]
        self._count(self._backends(some, tags[claimed]), own["state"][claimed], -1)
        self._stored(version_of(records))[some] = self._form.to_store(records[claimed], places[claimed], tick)
        atomic.compare_exchange(
            self._sessions.tags, some, tags_of(busy[claimed], tick), tags_of(records[claimed], tick)
        )
        self._count(places[claimed, 1], records["state"][claimed], 1)
        before, after = tags[claimed], tags_of(records[claimed], tick)
        used = (before > _STAMP) & (states_of(before) != SessionState.RESERVED)
        self._report(some[used], before[used], before[used] & _STAMP, Cause.DISPLACED)
        self._report(some, before & _STAMP, after, Cause.RECEIVED)
        return claimed

    def _merge(self, records: Records, tags: Tags, own: Records, tick: int) -> NDArray[np.bool_]:
        """Merge records with those of the same sessions here; return which were."""
        slots, both = records["slot"].astype(np.int64), merged(own, records)
        new = tags_of(both, tick)
        differs = new != tags
        done: NDArray[np.bool_] = ~differs
        done[differs] = atomic.compare_exchange(self._sessions.tags, slots[differs], tags[differs], new[differs])
        stored = self._stored(version_of(records))
        for name in ("client_ack", "backend_ack"):
            changed = done & (both[name] != own[name])
            stored[name][slots[changed]] = both[name][changed]
        over = done & (both["state"] == SessionState.CLOSED)
        self._count(stored["backend_index"][slots[over]], own["state"][over], -1)
        moved = done & (both["state"] != own["state"])
        self._report(slots[moved], tags[moved], new[moved], Cause.RECEIVED)
        return done

    def _report(self, slots: Slots, before: Tags, after: Tags, cause: Cause) -> None:
        if self.on_change is not None and len(slots):
            self.on_change(slots, before, after, cause)

    def _count(self, backends: NDArray[Any], states: NDArray[Any], difference: int) -> None:
        """Count live sessions of backends, once more or once less each."""
        indexes, counts = np.unique(backends[np.isin(states, _LIVE)], return_counts=True)
        for index, count in zip(indexes.tolist(), counts.tolist(), strict=True):
            atomic.add(self._loads.reshape(-1), index * self._loads.shape[1], difference * count)

    def _backends(self, slots: Slots, tags: Tags) -> NDArray[np.uint16]:
        """Return the indexes of the backends of sessions, whose families are in their tags."""
        found = self._sessions.sessions4["backend_index"][slots]
        ipv6 = are_ipv6(tags)
        if ipv6.any():
            found[ipv6] = self._stored(6)["backend_index"][slots[ipv6]]
        return found

    def _stored(self, version: int) -> NDArray[Any]:
        if version == 4:
            return self._sessions.sessions4
        assert self._sessions.sessions6 is not None
        return self._sessions.sessions6

    def _own(self, version: int, slots: Slots, tags: Tags, tick: int) -> Records:
        """Return this node's records of slots, in the form of a family; one of the other family has no identity."""
        own = self._form.records(version, slots, tags, self._stored(version)[slots], tick)
        other = are_ipv6(tags) != (version == 6)
        if other.any():
            created = self._stored(10 - version)["created"][slots[other]]
            own["created_age"][other] = np.maximum(age_of(tick, created), own["stamp_age"][other])
            identities(own)[other] = 0
        return own

    def _places(self, records: Records) -> NDArray[np.int64]:
        """Return the slot of the service and the index of the backend of each record; 0 for what is not known."""
        if version_of(records) == 6 and self._sessions.sessions6 is None:
            return np.zeros((len(records), 2), np.int64)
        services, backends = self.services, self.backends
        found = [
            (services.get(service, 0), backends.get(backend, 0))
            for service, backend in zip(service_keys(records), backend_keys(records), strict=True)
        ]
        return np.array(found, np.int64).reshape(-1, 2)
