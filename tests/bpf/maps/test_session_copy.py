# SPDX-License-Identifier: Apache-2.0
"""Sessions are copied into maps of another size while one program, then two, then the other changes them."""

from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.session_slots import NOW, Slots

from bpf.layout.session import SessionState, Tag, TagFlag
from bpf.maps.session_copy import SessionCopy, merged

FEW, MANY = 1 << 16, 1 << 17
NUMBERS = {FEW, MANY}


def bytes_of(slots: Slots, slot: int, *, ipv6: bool = False) -> bytes:
    records = slots.map.sessions6 if ipv6 else slots.map.sessions4
    assert records is not None
    return bytes(records[slot : slot + 1].tobytes())


def change(slots: Slots, slot: int, state: SessionState, stamp: int, flags: int = 0) -> None:
    """Change a session's tag as the program does."""
    tag = Tag.unpack(int(slots.map.tags[slot]))
    slots.map.tags[slot] = Tag(tag.fingerprint, state, tag.flags | TagFlag(flags), stamp).pack()


@pytest.mark.parametrize(("before", "after"), [(FEW, MANY), (MANY, FEW)], ids=["more", "fewer"])
def test_a_slot_is_the_same_session_in_more_slots_and_in_fewer(before: int, after: int) -> None:
    former, present = Slots(before), Slots(after)
    for slot in (1, 40_000, 65_535):
        former.put(slot)
    former.put(9, client=ip_address("2001:db8::7"))
    former.put(10, bucket_bits=3)
    copy = SessionCopy(former.map, present.map, NUMBERS)
    copy.begin()
    used = [1, 9, 40_000, 65_535]
    assert np.flatnonzero(present.map.tags).tolist() == used, "the fifth began with a number that is not served"
    assert (present.map.tags[used] == former.map.tags[used]).all()
    assert bytes_of(present, 40_000) == bytes_of(former, 40_000)
    assert bytes_of(present, 9, ipv6=True) == bytes_of(former, 9, ipv6=True)
    assert (copy.follow(), copy.finish()) == (0, 0)


def test_a_slot_that_is_reserved_for_another_node_stays_so() -> None:
    former, present = Slots(FEW), Slots(MANY)
    reserved = Tag(0, SessionState.RESERVED, TagFlag(0), NOW).pack()
    former.map.tags[5] = reserved
    former.put(6)
    copy = SessionCopy(former.map, present.map, NUMBERS)
    copy.begin()
    former.map.tags[6] = reserved  # its session has ended
    assert copy.finish() == 0
    assert present.map.tags[[5, 6]].tolist() == [reserved] * 2


def test_what_changes_before_the_program_does_is_copied_again() -> None:
    former, present = Slots(FEW), Slots(MANY)
    for slot in (1, 2, 3):
        former.put(slot)
    copy = SessionCopy(former.map, present.map, NUMBERS)
    copy.begin()
    former.map.tags[1] = NOW  # it has ended
    former.put(2, idle=1, client=ip_address("192.0.2.99"))
    change(former, 3, SessionState.FIN, NOW + 1)
    former.put(4)
    assert copy.follow() == 4
    assert (present.map.tags[:5] == former.map.tags[:5]).all()
    assert present.map.read(2) == former.map.read(2)
    assert present.map.read(4) == former.map.read(4)


def test_a_copy_that_a_process_left_brings_no_session_back_that_has_ended_since() -> None:
    former, present = Slots(FEW), Slots(MANY)
    for slot in (1, 2):
        former.put(slot)
    SessionCopy(former.map, present.map, NUMBERS).begin()  # by a process that is killed
    former.map.tags[1] = NOW + 1  # its agent has freed it
    copy = SessionCopy(former.map, present.map, NUMBERS)
    copy.begin()
    assert np.flatnonzero(present.map.tags >> np.uint64(32)).tolist() == [2]


def test_what_both_programs_change_at_the_same_time_is_merged() -> None:
    former, present = Slots(FEW), Slots(MANY)
    for slot in (1, 2, 3, 4):
        former.put(slot)
    copy = SessionCopy(former.map, present.map, NUMBERS)
    copy.begin()
    change(former, 1, SessionState.FIN, NOW + 1, TagFlag.CLIENT_FIN)
    change(present, 1, SessionState.EST, NOW + 2, TagFlag.BACKEND_FIN)
    change(former, 2, SessionState.CLOSED, NOW + 1)
    change(present, 3, SessionState.CLOSED, NOW + 1)
    former.map.tags[4] = NOW + 1  # its agent has closed and freed it
    former.put(6)  # the program had begun it before it learned of the copy
    assert copy.finish() == 0
    assert Tag.unpack(int(present.map.tags[1])) == Tag(
        (7919 & 0xFFFF) | 1, SessionState.FIN, TagFlag.CLIENT_FIN | TagFlag.BACKEND_FIN, NOW + 2
    )
    assert [Tag.unpack(int(present.map.tags[slot])).state for slot in (2, 3, 4)] == [
        SessionState.CLOSED, SessionState.CLOSED, SessionState.FREE
    ]  # fmt: skip
    assert present.map.read(6) == former.map.read(6)
    assert present.map.tags[6] == former.map.tags[6]


FREE, SYN, EST, CLOSED, RESERVED = (
    SessionState.FREE, SessionState.SYN, SessionState.EST, SessionState.CLOSED, SessionState.RESERVED
)  # fmt: skip
NONE, FLOW, CLOSED_FLOW, OTHER = 0, 77, 76, 99
"""Fingerprints."""


@pytest.mark.parametrize(
    ("now", "former", "expected"),
    [
        ((FLOW, EST, 10), (NONE, FREE, 10), (NONE, FREE, 10)),
        ((FLOW, EST, 11), (NONE, FREE, 10), (FLOW, EST, 11)),
        ((FLOW, EST, 10), (NONE, RESERVED, 12), (NONE, RESERVED, 12)),
        ((FLOW, EST, 13), (NONE, RESERVED, 12), (FLOW, EST, 13)),
        ((NONE, FREE, 10), (FLOW, SYN, 11), (FLOW, SYN, 11)),
        ((NONE, FREE, 10), (FLOW, EST, 10), (NONE, FREE, 10)),
        ((NONE, RESERVED, 10), (FLOW, EST, 9), (NONE, RESERVED, 10)),
        ((FLOW, EST, 13), (CLOSED_FLOW, CLOSED, 12), (CLOSED_FLOW, CLOSED, 13)),
        ((CLOSED_FLOW, CLOSED, 12), (FLOW, EST, 13), (CLOSED_FLOW, CLOSED, 13)),
        ((OTHER, EST, 10), (FLOW, EST, 12), (OTHER, EST, 10)),
    ],
    ids=[
        "freed", "freed, and a packet since", "reserved", "reserved, and a packet since", "it began after the copy",
        "freed in the present maps", "reserved there", "closed for its client", "likewise there", "another session",
    ],
)  # fmt: skip
def test_what_a_process_that_was_killed_has_not_merged(
    now: tuple[int, SessionState, int], former: tuple[int, SessionState, int], expected: tuple[int, SessionState, int]
) -> None:
    """The next one does not know what was copied."""
    slots = Slots(FEW), Slots(MANY)
    for one, (fingerprint, state, stamp) in zip(slots, (former, now), strict=True):
        one.put(5, client=ip_address(f"192.0.2.{fingerprint}"))
        one.map.tags[5] = Tag(fingerprint, state, TagFlag(0), stamp).pack()
    before = slots[1].map.read(5)
    assert SessionCopy(slots[0].map, slots[1].map, NUMBERS).finish() == 0
    found = Tag.unpack(int(slots[1].map.tags[5]))
    assert (found.fingerprint, found.state, found.stamp) == expected
    if expected[1] in (SYN, EST):
        assert slots[1].map.read(5) == (before if expected == now else slots[0].map.read(5))


@given(*[st.tuples(st.sampled_from(SessionState), st.integers(0, 255), st.integers(0, 2**32 - 1))] * 2)
def test_a_merged_tag_has_what_each_program_has_seen(
    one: tuple[SessionState, int, int], other: tuple[SessionState, int, int]
) -> None:
    tags = [Tag(77, state, TagFlag(flags), stamp) for state, flags, stamp in (one, other)]
    words = [np.array([tag.pack()], np.uint64) for tag in tags]
    found = Tag.unpack(int(merged(*words)[0]))
    assert found == Tag(77, max(one[0], other[0]), TagFlag(one[1] | other[1]), max(one[2], other[2]))
