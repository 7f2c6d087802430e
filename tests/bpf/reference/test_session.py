# SPDX-License-Identifier: Apache-2.0
"""Sessions as stories: each line is a packet, and what the session is after it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.layout.nat import Timeout
from bpf.layout.session import SessionState, Tag, TagFlag
from bpf.reference.session import (
    NO_FLAGS,
    RESET_WINDOW,
    Progress,
    Segment,
    followed,
    is_free,
    opened,
    place_of,
    timeout_of,
)

FREE, HALF, EST, FIN, CLOSED, BUSY, RESERVED = SessionState
CLIENT, BACKEND = True, False
SYN = Segment(syn=True, sequence=999)
SYN_ACK = Segment(syn=True, ack=True, sequence=4999, acknowledgment=1000)
ACK = Segment(ack=True, sequence=1000, acknowledgment=5000)
ANSWER = Segment(ack=True, sequence=5000, acknowledgment=1100)
CLIENT_FIN = Segment(fin=True, ack=True, sequence=1100, acknowledgment=5000)
BACKEND_FIN = Segment(fin=True, ack=True, sequence=5000, acknowledgment=1101)
LAST_ACK = Segment(ack=True, sequence=1101, acknowledgment=5001)
TIMEOUTS = dict(zip(Timeout, (30, 5, 3600, 60, 2, 56, 28, 168), strict=True))

Story = list[tuple[bool, Segment, SessionState]]
OPENING: Story = [
    (BACKEND, SYN_ACK, HALF),
    (CLIENT, ACK, EST),
    (BACKEND, ANSWER, EST),
]
STORIES: dict[str, Story] = {
    "closed by the client": [
        *OPENING, (CLIENT, CLIENT_FIN, FIN), (BACKEND, BACKEND_FIN, FIN), (CLIENT, LAST_ACK, CLOSED),
    ],
    "closed by the backend": [
        *OPENING, (BACKEND, BACKEND_FIN, FIN), (CLIENT, ACK, FIN), (CLIENT, CLIENT_FIN, FIN),
        (BACKEND, LAST_ACK, CLOSED),
    ],
    "half closed, then data": [*OPENING, (CLIENT, CLIENT_FIN, FIN), (BACKEND, ANSWER, FIN)],
    "a forged FIN of either end": [
        *OPENING, (CLIENT, replace(CLIENT_FIN, sequence=1 << 22), EST),
        (BACKEND, replace(BACKEND_FIN, sequence=1 << 22), EST), (CLIENT, CLIENT_FIN, FIN),
    ],
    "the first ACK was lost": [(BACKEND, SYN_ACK, HALF), (CLIENT, CLIENT_FIN, FIN)],
    "refused": [(BACKEND, Segment(rst=True, ack=True, acknowledgment=1000), CLOSED)],
    "refused by who does not know the SYN": [(BACKEND, Segment(rst=True, ack=True, acknowledgment=1001), HALF)],
    "refused without an acknowledgment": [(BACKEND, Segment(rst=True, sequence=0), HALF)],
    "SYN again": [(CLIENT, SYN, HALF), *OPENING],
    "forged ACK without a SYN-ACK": [(CLIENT, ACK, HALF)],
    "forged ACK of a SYN-ACK that its sender did not see": [
        (BACKEND, SYN_ACK, HALF), (CLIENT, Segment(ack=True, acknowledgment=5001 + RESET_WINDOW), HALF),
        (CLIENT, Segment(ack=True, acknowledgment=1 << 31), HALF), (CLIENT, ACK, EST),
    ],
    "RST of the client": [*OPENING, (CLIENT, Segment(rst=True, sequence=1100), CLOSED)],
    "RST of the client before it sent more": [*OPENING[:1], (CLIENT, Segment(rst=True, sequence=1000), CLOSED)],
    "RST of the backend": [*OPENING, (BACKEND, Segment(rst=True, sequence=5000), CLOSED)],
    "RSTs at the window's edges": [
        *OPENING, (CLIENT, Segment(rst=True, sequence=1000 + RESET_WINDOW + 1), EST),
        (CLIENT, Segment(rst=True, sequence=1000 - RESET_WINDOW - 1 & 0xFFFFFFFF), EST),
        (BACKEND, Segment(rst=True, sequence=5000 + RESET_WINDOW + 1), EST),
        (CLIENT, Segment(rst=True, sequence=1000 + RESET_WINDOW), CLOSED),
    ],
    "RST after both FINs": [
        *OPENING, (CLIENT, CLIENT_FIN, FIN), (CLIENT, Segment(rst=True, sequence=1101), CLOSED),
        (BACKEND, ANSWER, CLOSED),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    now = opened(SYN)
    assert now.state is SessionState.SYN
    for number, (from_client, segment, state) in enumerate(STORIES[name]):
        now = followed(now, segment, from_client)
        assert now.state is state, number


def end_of(name: str) -> Progress:
    now = opened(SYN)
    for from_client, segment, _ in STORIES[name]:
        now = followed(now, segment, from_client)
    return now


def test_flags_show_who_closed_first_and_how() -> None:
    both = TagFlag.CLIENT_FIN | TagFlag.BACKEND_FIN | TagFlag.SYNACK_SEEN
    assert end_of("closed by the client").flags == both
    assert end_of("closed by the backend").flags == both | TagFlag.CLOSED_BY_BACKEND
    assert TagFlag.RESET in end_of("RST of the client").flags


def test_udp_is_one_way_until_the_backend_answers() -> None:
    datagram = Segment(udp=True)
    now = opened(datagram)
    assert now.state is followed(now, datagram, CLIENT).state is SessionState.SYN
    assert followed(followed(now, datagram, BACKEND), datagram, CLIENT).state is SessionState.EST


SEGMENTS = st.builds(
    Segment, st.booleans(), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
)  # fmt: skip


@given(packets=st.lists(st.tuples(st.booleans(), SEGMENTS), max_size=12))
def test_states_only_advance(packets: list[tuple[bool, Segment]]) -> None:
    now = opened(SYN)
    for from_client, segment in packets:
        after = followed(now, segment, from_client)
        assert after.state >= now.state
        assert now.flags in after.flags
        now = after


@given(packets=st.lists(SEGMENTS, max_size=12))
def test_client_alone_never_establishes(packets: list[Segment]) -> None:
    """A forged SYN and whatever follows it, without a SYN-ACK of the backend."""
    now = opened(SYN)
    for segment in packets:
        now = followed(now, segment, CLIENT)
    assert now.state in (SessionState.SYN, SessionState.CLOSED)


@given(flow_hash=st.integers(0, 2**32 - 1), row=st.integers(0, 4095), bits=st.integers(1, 9))
def test_two_different_buckets_of_the_row(flow_hash: int, row: int, bits: int) -> None:
    place = place_of(flow_hash, row, bits)
    assert {bucket % 4096 for bucket in place.buckets} == {row}
    assert all(bucket < 4096 << bits for bucket in place.buckets)
    assert len(set(place.buckets)) == 2
    assert 0 < place.fingerprint < 1 << 16


def tag(state: SessionState, age: int = 0, flags: TagFlag = NO_FLAGS) -> Tag:
    return Tag(0 if state is SessionState.FREE else 7, state, flags, 1000 - age)


def test_timeouts() -> None:
    assert timeout_of(tag(SessionState.SYN), TIMEOUTS) == 30
    assert timeout_of(tag(SessionState.EST), TIMEOUTS) == 3600
    assert timeout_of(tag(SessionState.FIN), TIMEOUTS) == 60
    assert timeout_of(tag(SessionState.CLOSED), TIMEOUTS) == 2
    assert timeout_of(tag(SessionState.CLOSED, flags=TagFlag.CLOSED_BY_BACKEND), TIMEOUTS) == 56
    assert timeout_of(tag(SessionState.SYN, flags=TagFlag.UDP), TIMEOUTS) == 28
    assert timeout_of(tag(SessionState.EST, flags=TagFlag.UDP), TIMEOUTS) == 168


def test_slot_is_free_after_its_timeout_and_never_while_it_is_written() -> None:
    assert is_free(tag(SessionState.FREE), 1000, TIMEOUTS)
    assert not is_free(tag(BUSY, age=999), 1000, TIMEOUTS, full=True)
    assert not is_free(tag(RESERVED, age=999), 1000, TIMEOUTS, full=True)
    assert not is_free(tag(SessionState.CLOSED, age=2), 1000, TIMEOUTS)
    assert is_free(tag(SessionState.CLOSED, age=3), 1000, TIMEOUTS)
    assert [is_free(tag(SessionState.SYN, age=6), 1000, TIMEOUTS, full) for full in (False, True)] == [False, True]
    assert not is_free(tag(SessionState.EST, age=3600), 1000, TIMEOUTS)
    assert not is_free(Tag(7, SessionState.CLOSED, NO_FLAGS, 2**32 - 1), 1, TIMEOUTS)  # the stamp wraps
