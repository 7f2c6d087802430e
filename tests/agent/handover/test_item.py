# SPDX-License-Identifier: Apache-2.0
"""Items of a hand-over: what is encoded is decoded; what is hostile or of another pool is refused."""

import contextlib
import struct
from ipaddress import IPv4Network, IPv6Network

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.session_records import record

from agent.channel.message import MAX_PAYLOAD
from agent.handover.item import Codec, End, Kind, Origin, Pull, Sessions, Slots
from agent.handover.record import FORM_4, FORM_6
from bpf.layout.session import SessionState

POOL, POOL6, OTHER = IPv4Network("10.255.0.0/31"), IPv6Network("fd00:ff::/127"), IPv4Network("10.254.0.0/31")
SLOTS = Slots(4096, {4: [Origin(POOL, 1 << 16)], 6: [Origin(POOL6, 1 << 16)]})
CODEC = Codec(SLOTS)


def test_a_pull_and_its_end() -> None:
    rows = np.random.default_rng(1).random(4096) < 0.3
    item = CODEC.pull(7, rows)
    assert len(item) <= MAX_PAYLOAD
    found = CODEC.decode(item)
    assert isinstance(found, Pull)
    assert (found.number, found.rows.tolist()) == (7, rows.tolist())
    assert CODEC.decode(CODEC.end(8)) == End(8)


@pytest.mark.parametrize(("version", "each"), [(4, 21), (6, 12)])
def test_records_in_full_datagrams(version: int, each: int) -> None:
    ipv6 = 64 if version == 6 else 0
    many = np.concatenate([record(slot, 1 + slot % 99, version, flags=ipv6 + slot % 7) for slot in range(50)])
    items = list(CODEC.sessions(many))
    assert len(items) == -(-50 // each)
    assert max(map(len, items)) <= MAX_PAYLOAD
    found = [CODEC.decode(one) for one in items]
    sessions = [one for one in found if isinstance(one, Sessions)]
    assert {(one.kind, one.version) for one in sessions} == {(Kind.SESSIONS, version)}
    records, wrong, why = CODEC.records(version, b"".join(one.content for one in sessions))
    assert (records.tobytes(), wrong, why) == (many.tobytes(), 0, "")
    for kind in (Kind.REFUSED, Kind.DECLINED):
        one = CODEC.decode(next(CODEC.sessions(many, kind)))
        assert isinstance(one, Sessions)
        assert one.kind is kind


def test_the_size_of_a_record() -> None:
    assert (FORM_4.itemsize, FORM_6.itemsize) == (52, 88)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"slot": 1 << 16}, "a slot is too high"),
        ({"state": 0}, "a state is unknown"),
        ({"state": 5}, "a state is unknown"),
        ({"fingerprint": 2}, "a fingerprint is even"),
        ({"created_age": 1 << 31}, "an age is too high"),
        ({"stamp_age": 12}, "younger than its last packet"),
        ({"protocol": 1}, "neither TCP nor UDP"),
        ({"protocol": 17}, "a flag contradicts"),
        ({"flags": 64}, "a flag contradicts"),
        ({"vip_port": 0}, "a port is 0"),
        ({"backend_port": 0}, "a port is 0"),
    ],
)
def test_records_that_no_node_sends_are_refused(values: dict[str, int], problem: str) -> None:
    item = CODEC.decode(next(CODEC.sessions(np.concatenate([record(), record(**values)]))))
    assert isinstance(item, Sessions)
    records, wrong, why = CODEC.records(4, item.content)
    assert records.tobytes() == record().tobytes()
    assert wrong == 1
    assert problem in why


def test_a_closed_session_may_have_the_fingerprint_of_no_flow() -> None:
    closed = record(fingerprint=2, state=SessionState.CLOSED)
    item = CODEC.decode(next(CODEC.sessions(closed)))
    assert isinstance(item, Sessions)
    records, wrong, _ = CODEC.records(4, item.content)
    assert (records.tobytes(), wrong) == (closed.tobytes(), 0)


def test_records_of_another_pool_or_number_and_items_of_other_rows_are_refused() -> None:
    more, moved = Codec(Slots(4096, {4: [Origin(POOL, 1 << 17)]})), Codec(Slots(4096, {4: [Origin(OTHER, 1 << 16)]}))
    for item in (next(more.sessions(record())), next(moved.sessions(record()))):
        with pytest.raises(ValueError, match="the pool is another one"):
            CODEC.decode(item)
    fewer_rows = Codec(Slots(2048, {4: [Origin(POOL, 1 << 16)]}))
    with pytest.raises(ValueError, match="the pool is another one"):
        CODEC.decode(fewer_rows.end(1))
    for other in (more, moved):
        assert CODEC.decode(other.end(1)) == End(1), "a node with a former origin as well is asked for the rest"


def test_records_of_two_pools_travel_by_their_own_pool() -> None:
    """Each node numbers the pools that it knows by itself."""
    both = Codec(Slots(4096, {4: [Origin(one, 1 << 16) for one in (OTHER, POOL)]}))
    many = np.concatenate([record(1), record(2, origin=1), record(3)])
    items = [both.decode(one) for one in both.sessions(many)]
    found = [both.records(4, one.content, one.origin)[0] for one in items if isinstance(one, Sessions)]
    assert np.concatenate(found).tobytes() == many[[0, 2, 1]].tobytes()
    _, of_pool = both.sessions(many)
    one = CODEC.decode(of_pool)
    assert isinstance(one, Sessions)
    assert CODEC.records(4, one.content, one.origin)[0].tobytes() == record(2).tobytes()


@given(st.binary(max_size=200), st.integers(0, 6), st.integers(0, 7), st.integers(0, 20))
def test_any_bytes_are_an_item_or_a_value_error(data: bytes, kind: int, version: int, count: int) -> None:
    number = SLOTS.number(SLOTS.origins.get(version, [None])[0])
    for item in (data, struct.pack("!BBHI", kind, version, count, number) + data):
        with contextlib.suppress(ValueError):
            CODEC.decode(item)


@given(st.data())
def test_cut_items_are_refused(data: st.DataObject) -> None:
    whole = data.draw(
        st.sampled_from([next(CODEC.sessions(record())), CODEC.end(1), CODEC.pull(1, np.ones(4096, bool))])
    )
    with pytest.raises(ValueError):  # noqa: PT011 -- which error, depends on where it is cut
        CODEC.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
