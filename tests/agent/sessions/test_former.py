# SPDX-License-Identifier: Apache-2.0
"""What is left of the former pool, and until when it must be announced."""

from ipaddress import ip_address, ip_network

import pytest
from support.session_slots import POOLS, Slots

from agent.sessions.former import QUIET_S, FormerSessions
from agent.sessions.listing import count_live
from agent.sessions.selection import Selection
from agent.sessions.tag_array import LIVE
from bpf.layout.session import SessionState
from bpf.maps.session_map import now_tick

FORMER = ip_network("10.254.0.0/31"), ip_network("fd00:fe::/127")
OLD, OLD6 = ip_address("10.254.0.1"), ip_address("fd00:fe::1")


def test_sessions_of_the_former_pool_alone_are_counted() -> None:
    slots, now = Slots(), now_tick()
    slots.put(1, now=now)
    slots.put(2, now=now, nat=OLD, created=now - 300)
    slots.put(3, SessionState.CLOSED, now=now, nat=OLD, created=now - 90)
    slots.put(4, now=now, client=ip_address("2001:db8::7"), nat=OLD6, created=now - 200)
    slots.put(40_000, SessionState.SYN, now=now, nat=OLD, created=now - 100)
    slots.put(5, now=now, nat=OLD)
    slots.map.tags[5] = now - 9 & 0xFFFF_FFFF  # free: its record is a former session's
    former = FormerSessions(slots.table, lambda: False, FORMER)
    former.look(0.0)
    assert former.count == 4
    assert former.newest_s == pytest.approx(90 * 1.074, abs=2)
    assert count_live(slots.table, [Selection(LIVE, pool=pool) for pool in FORMER]) == 3
    assert count_live(slots.table, [Selection(LIVE, pool=POOLS[4])]) == 1
    assert count_live(slots.table) == 4


def test_sessions_that_began_with_the_former_number_alone_are_counted() -> None:
    slots, now = Slots(), now_tick()
    slots.put(1, now=now, bucket_bits=2)
    slots.put(2, now=now, bucket_bits=1, created=now - 90)
    slots.put(3, now=now, client=ip_address("2001:db8::7"), bucket_bits=1, created=now - 200)
    former = FormerSessions(slots.table, lambda: False, sessions=1 << 16)
    former.look(0.0)
    assert (former.count, former.in_use) == (2, True)
    assert former.newest_s == pytest.approx(90 * 1.074, abs=2)
    assert count_live(slots.table, [Selection(LIVE, began_among=frozenset({1 << 16}))]) == 2


def test_the_pool_is_in_use_until_none_was_seen_for_a_while() -> None:
    slots, gives = Slots(), True
    former = FormerSessions(slots.table, lambda: gives, FORMER)
    former.look(0.0)
    assert (former.in_use, former.count) == (True, 0), "new sessions may get it"
    gives = False
    former.look(QUIET_S - 1)
    assert former.in_use, "one may have begun between two looks"
    slots.put(2, now=now_tick(), nat=OLD)
    former.look(QUIET_S + 1)
    assert former.in_use
    slots.map.tags[2] = 0
    former.look(2 * QUIET_S)
    assert former.in_use
    former.look(2 * QUIET_S + 1)
    assert (former.in_use, former.count, former.newest_s) == (False, 0, None)


def test_an_agent_that_starts_with_an_empty_pool_does_not_announce_it_again() -> None:
    former = FormerSessions(Slots().table, lambda: False, FORMER)
    assert former.in_use is None, "what is announced stays so"
    former.look(1e6)
    assert former.in_use is False
