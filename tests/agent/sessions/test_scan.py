# SPDX-License-Identifier: Apache-2.0
"""The scan of tags: what has expired, and how many sessions there are in each state and row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sessions import scan
from agent.sessions.scan import limits
from agent.sessions.tag_array import LIVE
from bpf.layout.nat import ticks
from bpf.layout.session import TICK_SHIFT, SessionState, TagFlag

SLOTS = 1 << 16
NOW = 1_000_000
NONE = TagFlag(0)


def tag(state: SessionState, idle: int = 0, flags: TagFlag = NONE, now: int = NOW) -> int:
    return 0xABCD << 48 | state << 40 | flags << 32 | (now - idle) & 0xFFFF_FFFF


def table(tags: dict[int, int]) -> np.ndarray:
    words = np.zeros(SLOTS, np.uint64)
    words[list(tags)] = np.array(list(tags.values()), np.uint64)
    return words


@pytest.mark.parametrize(
    ("state", "flags", "seconds"),
    [
        (SessionState.SYN, NONE, 30),
        (SessionState.SYN, TagFlag.UDP, 30),
        (SessionState.EST, NONE, 3600),
        (SessionState.EST, TagFlag.SYNACK_SEEN | TagFlag.COPIED, 3600),
        (SessionState.EST, TagFlag.UDP, 180),
        (SessionState.FIN, TagFlag.CLIENT_FIN, 60),
        (SessionState.CLOSED, TagFlag.CLIENT_FIN | TagFlag.BACKEND_FIN, 2),
        (SessionState.CLOSED, TagFlag.CLOSED_BY_BACKEND | TagFlag.BACKEND_FIN, 60),
        (SessionState.BUSY, NONE, 30),
        (SessionState.RESERVED, NONE, 60),
    ],
)
def test_timeouts(state: SessionState, flags: TagFlag, seconds: int) -> None:
    """A tick is 1.07 s; nothing expires before its time, and everything within two ticks of it."""
    last = int(np.ceil(seconds * 1e9 / 2**TICK_SHIFT))
    found = scan.scan(table({7: tag(state, last, flags), 8: tag(state, last + 1, flags)}), NOW, limits())
    assert found.expired.tolist() == [8]
    assert found.tags.tolist() == [tag(state, last + 1, flags)]


def test_half_open_sessions_end_sooner_under_pressure() -> None:
    idle = {slot: tag(state, ticks(5) + 1) for slot, state in enumerate(SessionState)}
    idle[9] = tag(SessionState.SYN, ticks(5) + 1, TagFlag.UDP)
    assert scan.scan(table(idle), NOW, limits()).expired.tolist() == [SessionState.CLOSED]
    assert scan.scan(table(idle), NOW, limits(pressure=True)).expired.tolist() == [
        SessionState.SYN,
        SessionState.CLOSED,
        9,
    ]


def test_free_slots_never_expire() -> None:
    found = scan.scan(table({3: 0}), NOW, limits())
    assert found.expired.tolist() == []
    assert (found.states[SessionState.FREE], found.live, found.load) == (SLOTS, 0, 0)


@pytest.mark.parametrize("now", [5, NOW, 2**32 - 1, 2**32 + 5])
def test_packets_after_the_scan_began_and_the_clock_s_wrap(now: int) -> None:
    """A stamp may be later than `now`, which was read before; after 2^32 ticks it begins again at 0."""
    tags = {
        1: tag(SessionState.EST, -1, now=now),
        2: tag(SessionState.EST, 0, now=now),
        3: tag(SessionState.EST, 3600, now=now),
    }
    assert scan.scan(table(tags), now, limits()).expired.tolist() == [3]


@given(
    st.dictionaries(
        st.integers(0, SLOTS - 1),
        st.tuples(st.sampled_from(SessionState), st.integers(0, 255), st.integers(-2, 4000)),
        max_size=60,
    )
)
def test_scan_is_what_a_look_at_each_tag_finds(tags: dict[int, tuple[SessionState, int, int]]) -> None:
    words = table({slot: tag(state, idle, TagFlag(flags)) for slot, (state, flags, idle) in tags.items()})
    limit = limits()
    found = scan.scan(words, NOW, limit)
    expired = [slot for slot, (state, flags, idle) in sorted(tags.items()) if idle > limit[state << 8 | flags]]
    assert found.expired.tolist() == expired
    assert found.tags.tolist() == words[expired].tolist()
    states = [state for state, _, _ in tags.values()]
    assert {state: found.states[state] for state in SessionState if state is not SessionState.FREE} == {
        state: states.count(state) for state in SessionState if state is not SessionState.FREE
    }
    assert sum(found.states.values()) == SLOTS
    assert found.live == sum(state in LIVE for state in states)


def test_load_counts_all_used_slots() -> None:
    words = np.full(SLOTS, tag(SessionState.CLOSED), np.uint64)
    words[: SLOTS // 4] = 0
    found = scan.scan(words, NOW, limits())
    assert (found.load, found.live) == (0.75, 0)
