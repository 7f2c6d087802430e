# SPDX-License-Identifier: Apache-2.0
"""NAT: which slot a new session gets, and when there is none."""

import contextlib
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from itertools import islice

import numpy as np
import pytest
from support.nat_node import (
    KEY,
    POOL,
    TABLE,
    WEB,
    Flow,
    Here,
    establish,
    frame,
    reply,
    to_backend,
    to_client,
)
from support.nat_stage import SESSIONS
from support.packets import ACK, FIN

from bpf.layout.counter import Counter
from bpf.layout.nat import NAT_ROWS, bucket_bits, endpoint, row_of_slot, slot_of
from bpf.layout.nat_backend import BackendLoad
from bpf.layout.session import OWNER_WAYS, WAYS, SessionState, Tag, TagFlag
from bpf.maps.session_dtype import SESSION4_DTYPE
from bpf.maps.session_map import now_tick
from bpf.reference.flow_hash import flow_hash
from bpf.reference.session import Place, place_of


def place(flow: Flow) -> Place:
    ends = ip_address(flow.ends["src"]), flow.port, ip_address(flow.ends["dst"]), 443
    return place_of(flow_hash(KEY, *ends), flow.row(), bucket_bits(SESSIONS))


def half_open(here: Here) -> list[int]:
    return [slot for slot in here.used() if here.tag(slot).state is SessionState.SYN]


def test_new_connection_of_the_same_ports_gets_another_endpoint(here: Here) -> None:
    flow = Flow()
    slot, session = establish(here, flow)
    here.program.send(frame(flow.request(ACK | FIN, seq=102, ack=5001)))
    assert here.tag(slot).state is SessionState.FIN
    syn = flow.request(seq=900)
    _, after = here.program.send(frame(syn))
    (fresh,) = set(here.used()) - {slot}
    assert after == to_backend(here.sessions.read(fresh), syn)
    assert here.tag(slot).state is SessionState.CLOSED
    assert not here.tag(slot).fingerprint & 1, "that of no flow, so that it hides no other session of its bucket"
    assert here.nat.load(1) == BackendLoad(1, 2)
    late = reply(session, ACK, seq=5001, ack=103)
    assert here.program.send(frame(late))[1] == to_client(session, late), "the old one's last packets still pass"


def test_bucket_full_of_half_open_sessions(here: Here) -> None:
    """Half of a bucket, and no more; after a few seconds they make room for each other."""
    row = Flow().row()
    flows = list(islice((flow for flow in map(Flow, range(1024, 65535)) if flow.row() == row), 12))
    assert len(flows) >= 9, "a row has 16 of 65,536 ports on average, and the key of the hash is fixed"
    outcomes = [here.program.observe(frame(flow.request())) for flow in flows]
    assert len(here.used()) == 8, "both buckets of the row are half full"
    assert outcomes[-1].events[WEB, Counter.DROP_NAT_FULL] == 1
    for slot in here.used():
        tag = here.tag(slot)
        here.sessions.tags[slot] = replace(tag, stamp=tag.stamp - 6).pack()
    assert here.program.send(frame(flows[-1].request()))[0] == "tx"
    assert len(here.used()) == 8
    assert here.nat.load(1).active == 8


@pytest.mark.parametrize(
    ("used", "resting", "taken"),
    [((0, 0), (0, 0), 0), ((3, 3), (0, 0), 0), ((3, 2), (0, 0), 1), ((2, 3), (0, 0), 0), ((3, 2), (0, WAYS), 0),
     ((2, 3), (WAYS, 0), 1), ((WAYS, 0), (0, 0), 1), ((0, WAYS), (0, 0), 0)],
)  # fmt: skip
def test_emptier_bucket_with_a_free_way_is_taken(
    here: Here, used: tuple[int, int], resting: tuple[int, int], taken: int
) -> None:
    """`used` ways are of established sessions in each of the flow's buckets, and those up to `resting` rest."""
    flow = Flow()
    buckets = place(flow).buckets
    established = Tag(2, SessionState.EST, TagFlag(0), now_tick()).pack()
    closed = Tag(2, SessionState.CLOSED, TagFlag.CLOSED_BY_BACKEND, now_tick()).pack()
    for bucket, count, rests in zip(buckets, used, resting, strict=True):
        ways = [established] * count + [closed] * max(0, rests - count)
        here.sessions.tags[bucket * WAYS : bucket * WAYS + len(ways)] = ways
    before = set(here.used())
    assert here.program.send(frame(flow.request()))[0] == "tx"
    (slot,) = set(here.used()) - before
    assert slot // WAYS == buckets[taken]


@pytest.mark.parametrize("oldest", range(WAYS))
def test_the_free_way_that_was_left_the_longest_ago_is_taken(here: Here, oldest: int) -> None:
    """Of the owner's ways, and not one of the others' that is older."""
    flow, now = Flow(), now_tick()
    bucket, other = place(flow).buckets
    here.sessions.tags[other * WAYS] = Tag(2, SessionState.EST, TagFlag(0), now).pack()
    left = np.arange(now - 9, now - 9 + WAYS, dtype=np.uint64)
    left[oldest] = now - 20
    here.sessions.tags[bucket * WAYS : (bucket + 1) * WAYS] = left
    assert here.program.send(frame(flow.request()))[0] == "tx"
    (slot,) = half_open(here)
    assert slot // WAYS == bucket
    assert slot % WAYS == (oldest if oldest < OWNER_WAYS else 0)


def test_no_bucket_gets_a_second_session_of_one_fingerprint(here: Here) -> None:
    """It goes to the fuller bucket; with the fingerprint in both it is refused."""
    flow = Flow()
    at, same = place(flow), Tag(place(flow).fingerprint, SessionState.EST, TagFlag(0), now_tick()).pack()
    first, second = (bucket * WAYS for bucket in at.buckets)
    here.sessions.sessions4[first] = np.zeros((), SESSION4_DTYPE)
    here.sessions.tags[first] = same
    here.sessions.tags[second : second + 2] = same & ~(1 << 48)
    assert here.program.send(frame(flow.request()))[0] == "tx"
    assert [slot // WAYS for slot in half_open(here)] == [at.buckets[1]]
    here.sessions.tags[second : second + WAYS] = 0
    here.sessions.sessions4[second] = np.zeros((), SESSION4_DTYPE)
    here.sessions.tags[second] = same
    assert here.program.observe(frame(flow.request())).events[WEB, Counter.DROP_NAT_FULL] == 1


def test_established_session_never_makes_room(here: Here) -> None:
    """A row whose ways are all in use, however old."""
    row = Flow().row()
    tags = here.sessions.tags.reshape(-1, NAT_ROWS, WAYS)[:, row]
    tag = Tag(0x7FFF, SessionState.EST, TagFlag(0), 1)
    tags[:] = tag.pack()
    assert here.program.observe(frame(Flow().request())).events[WEB, Counter.DROP_NAT_FULL] == 1
    for at, (state, flags, age, free) in enumerate(
        [
            (SessionState.CLOSED, TagFlag(0), 3, True),
            (SessionState.CLOSED, TagFlag.CLOSED_BY_BACKEND, 3, False),
            (SessionState.CLOSED, TagFlag.CLOSED_BY_BACKEND, 57, True),
            (SessionState.CLOSED, TagFlag(0), 0, False),
            (SessionState.FIN, TagFlag(0), 10_000, False),
            (SessionState.BUSY, TagFlag(0), 6, True),
            (SessionState.RESERVED, TagFlag(0), 1000, False),
        ]
    ):
        tags[:, 0] = Tag(0x7FFD, state, flags, now_tick() - age & 0xFFFF_FFFF).pack()
        verdict, _ = here.program.send(frame(Flow().request()))
        assert (verdict == "tx") == free, (at, state, flags, age)
        tags[:] = tag.pack()


def test_owner_takes_a_way_of_the_others_before_it_refuses(here: Here) -> None:
    row, used = Flow().row(), Tag(0x7FFF, SessionState.EST, TagFlag(0), 1).pack()
    here.sessions.tags.reshape(-1, NAT_ROWS, WAYS)[:, row, :OWNER_WAYS] = used
    assert here.program.send(frame(Flow().request()))[0] == "tx"
    (slot,) = (slot for slot in here.used() if here.tag(slot).state is SessionState.SYN)
    assert row_of_slot(slot) == row
    assert slot % WAYS >= OWNER_WAYS


def test_answer_to_an_endpoint_that_is_reserved_for_another_node_is_for_that_one(here: Here) -> None:
    """Also if this node's session that had it before was with the same backend."""
    slot, session = establish(here, Flow())
    answer = frame(reply(session, ACK, seq=5001, ack=101))
    assert here.program.send(answer)[0] == "tx"
    record = here.sessions.sessions4[slot : slot + 1].tobytes()
    for kept, expected in ((True, "tx"), (False, "drop")):
        here.sessions.tags[slot] = Tag(0, SessionState.RESERVED, TagFlag(0), now_tick()).pack()
        here.sessions.sessions4[slot : slot + 1] = np.frombuffer(record if kept else bytes(len(record)), SESSION4_DTYPE)
        found = here.program.observe(answer)
        assert found.verdict == expected, "the control is a record that was not cleared"
    assert found.events[TABLE, Counter.DROP_NAT_FOREIGN] == 1
    assert here.tag(slot).state is SessionState.RESERVED


def test_slot_of_an_endpoint() -> None:
    assert slot_of(POOL, IPv4Address("10.255.0.1"), 65535) == SESSIONS - 1
    with contextlib.suppress(IndexError):
        endpoint(POOL, SESSIONS)
        pytest.fail("beyond the pool")
