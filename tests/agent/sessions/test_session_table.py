# SPDX-License-Identifier: Apache-2.0
"""Freeing and closing sessions in memory that a program changes too, and the backends' counts."""

import threading
from ipaddress import IPv6Address

import numpy as np
import pytest
from support.session_slots import CLIENT, NOW, Slots

from agent.sessions import session_table
from agent.sessions.cause import Cause
from agent.sessions.session_table import common, drift
from agent.sessions.tag_array import states_of
from bpf.layout.session import SessionState, Tag, TagFlag


def active(slots: Slots) -> dict[int, int]:
    return {index: count for index, count in enumerate(slots.loads[:, 0].tolist()) if count}


def test_freeing_takes_sessions_off_their_backends() -> None:
    slots = Slots()
    tags = [
        slots.put(1, SessionState.SYN),
        slots.put(2, SessionState.EST, backend_index=2),
        slots.put(3, SessionState.FIN, client=IPv6Address("2001:db8::7"), backend_index=2),
        slots.put(4, SessionState.CLOSED, backend_index=2),
    ]
    slots.put(5, SessionState.EST, backend_index=2)
    assert active(slots) == {1: 1, 2: 3}
    assert slots.table.free(np.arange(1, 5), np.array(tags, np.uint64)) == 4
    assert active(slots) == {2: 1}
    assert np.flatnonzero(states_of(slots.map.tags)).tolist() == [5]
    assert slots.map.tags[1] == NOW, "when the slot was left"


def test_a_session_with_a_packet_meanwhile_lives_on() -> None:
    slots = Slots()
    old = np.array([slots.put(1, idle=4000), slots.put(2, idle=4000)], np.uint64)
    fresh = slots.put(2, idle=0)
    slots.loads[1, 0] = 2
    assert slots.table.free(np.array([1, 2]), old) == 1
    assert slots.map.tags[:3].tolist() == [0, NOW - 4000, fresh]
    assert active(slots) == {1: 1}


def test_closing_keeps_the_rest_of_the_tag() -> None:
    slots = Slots()
    tag = slots.put(9, flags=TagFlag.SYNACK_SEEN | TagFlag.COPIED, idle=50, protocol=17)
    assert slots.table.close(np.array([9]), np.array([tag], np.uint64), NOW) == 1
    flags = TagFlag.SYNACK_SEEN | TagFlag.COPIED | TagFlag.UDP | TagFlag.RESET
    fingerprint = Tag.unpack(tag).fingerprint & ~1  # no packet of any client finds it
    assert Tag.unpack(int(slots.map.tags[9])) == Tag(fingerprint, SessionState.CLOSED, flags, NOW)
    assert active(slots) == {}
    closed = slots.map.tags[[9]]
    assert slots.table.free(np.array([9]), closed) == 1
    assert active(slots) == {}, "it was taken off its backend when it was closed"


def test_changes_are_reported_while_somebody_watches() -> None:
    slots, seen = Slots(), []
    tags = np.array([slots.put(1), slots.put(2)], np.uint64)
    slots.table.on_change = lambda *change: seen.append([one.tolist() for one in change[:3]] + [change[3]])
    slots.put(2, idle=1)
    slots.table.free(np.array([1, 2]), tags)
    assert seen == [[[1], [tags[0]], [NOW], Cause.EXPIRED]]


def test_two_threads_free_each_session_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_table, "SLICE", 7)
    slots, freed = Slots(), []
    tags = np.array([slots.put(slot, backend_index=1 + slot % 3) for slot in range(500)], np.uint64)
    threads = [threading.Thread(target=lambda: freed.append(slots.table.free(np.arange(500), tags))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(freed) == 500
    assert active(slots) == {}


def test_recount_repairs_the_counts_of_backends() -> None:
    slots = Slots()
    for slot in range(300):
        slots.put(slot * 200, client=IPv6Address(slot) if slot % 2 else CLIENT, backend_index=1 + slot % 2)
    slots.put(100, SessionState.CLOSED)
    slots.loads[1, 0] += np.uint64(5)
    slots.loads[2, 0] -= np.uint64(3)
    slots.loads[7, 0] = 2**64 - 1
    assert slots.table.recount() == 0, "it may be that one is just in between"
    slots.loads[7, 0] = 0
    assert slots.table.recount() == 8
    assert active(slots) == {1: 150, 2: 150}
    assert slots.table.recount() == 0


@pytest.mark.parametrize(
    ("counted", "before", "after", "expected"),
    [
        (10, (10, 50), (10, 50), 0),
        (12, (10, 50), (10, 50), 2),
        (7, (10, 50), (10, 50), -3),
        (12, (10, 50), (12, 52), 0),  # two began
        (11, (10, 50), (10, 52), 0),  # two began and two ended
        (9, (10, 50), (8, 50), 0),  # two ended
        (20, (10, 50), (10, 52), 10),  # more than that explains
        (3, (2**64 - 1, 9), (2**64 - 1, 9), 4),  # counted below 0
    ],
)
def test_drift_is_what_no_change_explains(
    counted: int, before: tuple[int, int], after: tuple[int, int], expected: int
) -> None:
    words = [np.array([pair], np.uint64) for pair in (before, after)]
    assert drift(np.array([counted]), *words).tolist() == [expected]


def test_common() -> None:
    first, second = np.array([5, 5, -5, 5, 0, -2]), np.array([3, 7, -9, -5, 4, 0])
    assert common(first, second).tolist() == [3, 5, -5, 0, 0, 0]
