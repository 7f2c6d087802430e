# SPDX-License-Identifier: Apache-2.0
"""Sessions between maps and records: what one node reads another one writes; who keeps a slot; what races."""

from ipaddress import ip_address, ip_network
from typing import Any

import numpy as np
import pytest
from support.session_arrays import BACKEND, POOLS, SERVICE, SESSIONS, Arrays
from support.session_records import record

from agent.handover.item import Origin
from agent.handover.record import Records, from_wire, to_wire
from agent.handover.session_store import SessionStore
from agent.sessions.cause import Cause
from bpf.kernel import atomic
from bpf.layout.nat import NAT_ROWS, endpoint
from bpf.layout.session import WAYS, SessionState, Tag, TagFlag

TICK = 3
"""Of a node that has just booted: most sessions are older than its clock."""


def written(*records: Records, tick: int = TICK, backend: int = BACKEND) -> Arrays:
    node = Arrays(backend)
    for one in records:
        node.store.write(one, tick)
    return node


@pytest.mark.parametrize("version", [4, 6])
def test_a_record_is_the_session_that_the_program_would_have_written(version: int) -> None:
    flags = TagFlag.SYNACK_SEEN | (TagFlag.IPV6 if version == 6 else 0)
    one = record(40_001, 7, version, flags=flags, client_ack=11, backend_ack=12)
    node = written(one)
    session = node.map.read(40_001, version == 6)
    assert (session.client_port, session.vip_port, session.backend_port) == (40_007, 443, 8443)
    assert (session.nat, session.nat_port) == endpoint(POOLS[version], 40_001)
    assert (session.service_slot, session.backend_index) == (SERVICE, BACKEND)
    assert (session.created, session.client_ack, session.backend_ack) == (TICK - 10 & 0xFFFF_FFFF, 11, 12)
    assert Tag.unpack(int(node.tags[40_001])) == Tag(15, SessionState.EST, flags, TICK - 2)
    assert node.active == {BACKEND: 1}


@pytest.mark.parametrize("version", [4, 6])
def test_what_one_node_reads_another_one_whose_clock_has_just_begun_reads_again(version: int) -> None:
    ipv6 = TagFlag.IPV6 if version == 6 else 0
    many = np.concatenate([record(slot, slot, version, flags=ipv6, sums=slot) for slot in range(1, 50)])
    first, second = written(many), Arrays(5)
    everything = np.ones(4096, np.bool_)
    (read,) = first.store.read(first.store.used(everything), TICK + 3)
    assert read["stamp_age"].tolist() == [5] * 49
    second.store.write(read, 2)
    (again,) = second.store.read(second.store.used(everything), 2)
    assert again.tobytes() == read.tobytes()
    assert second.active == {5: 49}


def test_a_session_keeps_its_address_of_the_former_pool() -> None:
    """Two nodes that do not have the same pool as their present one."""
    first, second = Arrays(), Arrays()
    former = ip_network("10.254.0.0/31")
    for node in (first, second):
        node.store = SessionStore(node.map, {4: [Origin(pool, SESSIONS) for pool in (former, POOLS[4])]}, node.loads)
        node.store.services, node.store.backends = Arrays().store.services, Arrays().store.backends
    many = np.concatenate([record(40_001, 7), record(40_002, 8, origin=1)])
    first.store.write(many, TICK)
    (read,) = first.store.read(first.store.used(np.ones(4096, np.bool_)), TICK)
    assert read["origin"].tolist() == [0, 1]
    second.store.write(read, TICK)
    for slot, pool in ((40_001, former), (40_002, POOLS[4])):
        session = second.map.read(slot)
        assert (session.nat, session.nat_port) == endpoint(pool, slot)
    done = second.store.write(record(40_001, 7, origin=1), TICK)
    assert done.merged == 0, "another session, though of the same ends"


def test_a_session_keeps_the_number_that_it_began_with() -> None:
    """Its place among the origins is another one on the second node, and that has more slots."""
    first, second = Arrays(), Arrays(sessions=2 * SESSIONS)
    before, now = (Origin(POOLS[4], number) for number in (SESSIONS, 2 * SESSIONS))
    for node, origins in ((first, [before]), (second, [now, before])):
        node.store = SessionStore(node.map, {4: origins}, node.loads)
        node.store.services, node.store.backends = Arrays().store.services, Arrays().store.backends
    first.store.write(record(40_001, 7), TICK)
    (read,) = first.store.read(np.array([40_001]), TICK)
    second.store.write(from_wire(to_wire(read), 4, origin=1), TICK)
    second.store.write(record(40_002, 8), TICK)
    assert [second.map.read(slot).bucket_bits for slot in (40_001, 40_002)] == [1, 2]
    (again,) = second.store.read(np.array([40_001, 40_002]), TICK)
    assert again["origin"].tolist() == [1, 0]


def test_both_families_and_free_slots() -> None:
    node = written(record(1), record(2, version=6, flags=TagFlag.IPV6))
    node.tags[3] = Tag(5, SessionState.BUSY, TagFlag(0), TICK).pack()
    node.tags[4] = Tag(0, SessionState.FREE, TagFlag(0), TICK).pack()
    four, six = node.store.read(np.arange(5), TICK)
    assert (four["slot"].tolist(), six["slot"].tolist()) == ([1], [2])
    assert node.store.used(np.arange(4096) == 0).tolist() == [1, 2, 3]
    assert node.store.used(np.arange(4096) == 1).tolist() == []


def test_a_session_of_an_unknown_backend_is_declined() -> None:
    node = Arrays()
    done = node.store.write(np.concatenate([record(1), record(2, backend_port=9), record(3, vip_port=9)]), TICK)
    assert (done.taken, [one["slot"].tolist() for one in done.declined]) == (1, [[2, 3]])
    assert node.state(2) == SessionState.FREE


def test_the_same_session_is_merged_and_no_longer_counted_once_it_is_closed() -> None:
    node = written(record(1, state=SessionState.EST, flags=TagFlag.CLIENT_FIN))
    done = node.store.write(
        record(1, state=SessionState.CLOSED, flags=TagFlag.BACKEND_FIN, stamp_age=0, client_ack=5), TICK
    )
    assert (done.taken, done.merged) == (0, 1)
    both = TagFlag.CLIENT_FIN | TagFlag.BACKEND_FIN
    assert Tag.unpack(int(node.tags[1])) == Tag(3, SessionState.CLOSED, both, TICK)
    assert node.map.read(1).client_ack == 5
    assert node.active == {}
    again = node.store.write(record(1, state=SessionState.CLOSED), TICK)
    assert (again.merged, node.active) == (1, {})


def test_the_older_of_two_sessions_keeps_the_slot_and_the_younger_one_is_reset() -> None:
    old, young = {"created_age": 100, "stamp_age": 3}, {"created_age": 20, "stamp_age": 3}
    node = written(record(1, client=1, **old))
    done = node.store.write(record(1, client=2, **young), TICK)
    assert [one["fingerprint"].tolist() for one in done.refused] == [[5]]
    assert str(node.client(1)) == "10.1.0.1"
    other = written(record(1, client=2, **young))
    done = other.store.write(record(1, client=1, **old), TICK)
    assert (done.taken, done.reset) == (1, 1)
    assert str(other.client(1)) == "10.1.0.1"
    assert other.active == {BACKEND: 1}


def test_a_refused_session_is_freed_unless_another_one_has_its_slot() -> None:
    node = written(record(1, client=1), record(2, client=2))
    assert node.store.reset(np.concatenate([record(1, client=1), record(2, client=3)]), TICK) == 1
    assert (node.state(1), node.state(2)) == (SessionState.FREE, SessionState.EST)
    assert node.active == {BACKEND: 1}


def test_a_session_of_the_other_family_is_another_session() -> None:
    node = written(record(1, created_age=100, stamp_age=0))
    done = node.store.write(record(1, version=6, flags=TagFlag.IPV6), TICK)
    assert len(done.refused) == 1
    done = node.store.write(record(1, version=6, flags=TagFlag.IPV6, created_age=200), TICK)
    assert (done.taken, done.reset) == (1, 1)
    assert str(node.client(1, 6)) == "fd01::1"
    assert node.active == {BACKEND: 1}


def test_a_tag_that_changes_meanwhile_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program takes the slot, or gives it a stamp, between the look and the write."""
    node, exchange = Arrays(), atomic.compare_exchange
    changes = [Tag(9, SessionState.BUSY, TagFlag(0), TICK).pack(), 0]

    def racing(memory: Any, slots: Any, old: Any, new: Any) -> Any:
        if changes:
            memory[1] = changes.pop(0)
        return exchange(memory, slots, old, new)

    monkeypatch.setattr(atomic, "compare_exchange", racing)
    done = node.store.write(np.concatenate([record(1), record(2)]), TICK)
    assert (done.taken, done.busy) == (2, 0)
    assert (node.state(1), node.state(2)) == (SessionState.EST, SessionState.EST)


def test_a_slot_that_stays_busy_is_given_up() -> None:
    node = Arrays()
    node.tags[1] = Tag(9, SessionState.BUSY, TagFlag(0), TICK).pack()
    done = node.store.write(np.concatenate([record(1), record(2)]), TICK)
    assert (done.taken, done.busy) == (1, 1)
    assert node.state(1) == SessionState.BUSY


def test_two_records_of_one_slot_in_one_batch() -> None:
    node = Arrays()
    done = node.store.write(np.concatenate([record(1, 1, created_age=50), record(1, 2, created_age=60)]), TICK)
    assert (done.taken, done.reset) == (2, 1)
    assert str(node.client(1)) == "10.1.0.2"


def test_free_only_while_the_tag_is_the_same() -> None:
    node = written(record(1), record(2))
    slots = np.array([1, 2])
    tags = node.store.tags(slots)
    node.tags[2] += np.uint64(1)
    assert node.store.free(slots, tags) == 1
    assert (node.state(1), node.state(2)) == (SessionState.FREE, SessionState.EST)
    assert node.active == {BACKEND: 1}


def test_each_change_of_a_state_is_reported_with_its_cause() -> None:
    node, seen = Arrays(), []

    def note(slots: Any, before: Any, after: Any, cause: Cause) -> None:
        states = [SessionState(int(tag) >> 40 & 0xFF).name for tag in (before[0], after[0])]
        seen.append((slots.tolist(), *states, cause))

    node.store.on_change = note
    node.store.write(record(1, client=1), TICK)
    node.store.write(record(1, client=1, stamp_age=0), TICK)
    assert seen == [([1], "FREE", "EST", Cause.RECEIVED)], "a later stamp is no change"
    node.store.write(record(1, client=1, state=SessionState.FIN), TICK)
    node.store.write(record(1, client=2, created_age=1000), TICK)
    node.store.reset(record(1, client=2, created_age=1000), TICK)
    node.store.write(record(1, client=3), TICK)
    slots = np.array([1])
    node.store.free(slots, node.store.tags(slots))
    assert seen[1:] == [
        ([1], "EST", "FIN", Cause.RECEIVED),
        ([1], "FIN", "FREE", Cause.DISPLACED),
        ([1], "FREE", "EST", Cause.RECEIVED),
        ([1], "EST", "FREE", Cause.DISPLACED),
        ([1], "FREE", "EST", Cause.RECEIVED),
        ([1], "EST", "FREE", Cause.HANDED_OVER),
    ]


def test_a_slot_is_reserved_where_no_session_lives_and_taken_by_the_first_that_can_be() -> None:
    node = written(record(1), record(2, state=SessionState.CLOSED), record(3, state=SessionState.SYN))
    live = node.tags[[1, 3]].copy()
    everything = np.concatenate([record(slot, 9, stamp_age=0) for slot in (1, 2, 3, 4)])
    ended = record(5, state=SessionState.CLOSED)
    beyond = record(SESSIONS)
    for one in (everything, ended, beyond):
        node.store.reserve(one, TICK)
    assert node.tags[[1, 3]].tolist() == live.tolist()
    assert [Tag.unpack(int(node.tags[slot])) for slot in (2, 4)] == [
        Tag(0, SessionState.RESERVED, TagFlag(0), TICK)
    ] * 2
    assert not node.tags[5]
    assert node.active == {BACKEND: 2}
    changes: list[Any] = []
    node.store.on_change = lambda *change: changes.append(change)
    assert node.store.write(record(4, 9), TICK).taken == 1
    assert (node.client(4), node.state(4)) == (ip_address("10.1.0.9"), SessionState.EST)
    assert [change[3] for change in changes if len(change[0])] == [Cause.RECEIVED], "no session was displaced"


@pytest.mark.parametrize(
    ("mine", "other", "same_pool", "expected"),
    [
        ({"created_age": 5}, {"created_age": 50}, True, (SessionState.RESERVED, 1, [])),
        ({"created_age": 100}, {"created_age": 50}, True, (SessionState.EST, 0, [7])),
        ({"created_age": 5}, {"created_age": 50, "backend_port": 9}, True, (SessionState.EST, 0, [])),
        ({"created_age": 5, "protocol": 17}, {"created_age": 50}, True, (SessionState.EST, 0, [])),
        ({"created_age": 5}, {"created_age": 50}, False, (SessionState.EST, 0, [])),
    ],
    ids=["younger here", "older here", "another backend", "another protocol", "another pool"],
)
@pytest.mark.parametrize("version", [4, 6])
def test_of_two_sessions_with_one_endpoint_the_younger_is_reset_though_the_other_cannot_be_taken(
    version: int, mine: dict[str, int], other: dict[str, int], same_pool: bool, expected: tuple[SessionState, int, Any]
) -> None:
    udp = TagFlag.UDP if mine.get("protocol") == 17 else TagFlag(0)
    ipv6 = TagFlag.IPV6 if version == 6 else TagFlag(0)
    node = Arrays()
    node.store.services = node.store.services | {key[:-1] + b"\x11": SERVICE for key in node.store.services}
    assert node.store.write(record(7, 1, version, flags=udp | ipv6, **mine), TICK).taken == 1
    done = node.store.reserve(record(7, 2, version, vip_port=444, flags=ipv6, **other), TICK, same_pool)
    assert (node.state(7), done.reset, [slot for one in done.refused for slot in one["slot"].tolist()]) == expected
    assert node.active == ({} if done.reset else {BACKEND: 1})


def test_of_several_records_of_a_slot_the_last_one_has_the_right_age() -> None:
    """The first one waited for a link, so its session seems to be younger than it is."""
    node = written(record(7, 1, created_age=5))
    done = node.store.reserve(
        np.concatenate([record(7, 2, vip_port=444, created_age=1, stamp_age=1), record(7, 2, vip_port=444)]), TICK
    )
    assert (node.state(7), done.reset, done.refused) == (SessionState.RESERVED, 1, [])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.3, 0.9, 1.0])
def test_the_used_slots_of_any_rows(share: float) -> None:
    """Of few rows the tags are gathered, of more all are read."""
    random = np.random.default_rng(1)
    node = Arrays()
    states = random.choice([SessionState.FREE, SessionState.EST, SessionState.CLOSED, SessionState.RESERVED], SESSIONS)
    named = np.isin(states, [SessionState.EST, SessionState.CLOSED])
    node.tags[:] = (
        named.astype(np.uint64) << np.uint64(48) | states.astype(np.uint64) << np.uint64(40) | np.uint64(TICK)
    )
    rows = random.random(NAT_ROWS) < share
    expected = [slot for slot in np.flatnonzero(named).tolist() if rows[slot // WAYS % NAT_ROWS]]
    assert bool(expected) is (share > 0)
    assert node.store.used(rows).tolist() == expected
