# SPDX-License-Identifier: Apache-2.0
"""Which epoch a node uses among these members, and when it changes. Pure: no clock, no network."""

from ipaddress import IPv4Address
from itertools import pairwise, permutations, product

import pytest

from agent.model import Member, Share, State
from agent.table import algorithm
from agent.table.epoch import ARM_S, TABLE_VERSIONS, EpochSwitch, EpochUse, choose, incompatible_members

OLD, NEW, OTHER = 1, 2, 3
BOTH = (NEW, OLD)
USES = [EpochUse(epoch, alternating) for epoch in (OLD, NEW) for alternating in (False, True)]


def member(*supports: int, state: State = State.UP, lost: bool = False) -> Member:
    first, *others = supports
    shares = {5: Share(100, 100 if state is State.UP else 0, state)}
    return Member(IPv4Address("10.0.0.11"), first, shares, lost, 0.0, "", epochs=tuple(others))


@pytest.mark.parametrize(
    ("what", "members", "expected"),
    [
        ("nobody else has it yet", [BOTH, [OLD], [OLD]], EpochUse(OLD)),
        ("one is still without it", [BOTH, BOTH, [OLD]], EpochUse(OLD)),
        ("all have it", [BOTH, BOTH, BOTH], EpochUse(NEW, alternating=True)),
        ("some know the new one only", [BOTH, [NEW], BOTH], EpochUse(NEW)),
        (
            "some the one, some the other: the previous one, which has the connections",
            [BOTH, [NEW], [OLD]],
            EpochUse(OLD),
        ),
        ("the next change begins elsewhere", [BOTH, [OTHER, NEW]], EpochUse(NEW)),
        ("a node with which no epoch is shared", [BOTH, BOTH, [OTHER]], EpochUse(NEW, alternating=True)),
        ("alone", [BOTH], EpochUse(NEW, alternating=True)),
    ],
)
def test_what_is_used(what: str, members: list[tuple[int, ...]], expected: EpochUse) -> None:
    for order in permutations(members):
        assert choose(BOTH, [member(*supports) for supports in order]) == expected, what


@pytest.mark.parametrize(("gone", "counts"), [
    (member(OLD, lost=True), False),
    (member(OLD, state=State.LEFT), False),
    (member(OLD, state=State.DRAINING), True),
])  # fmt: skip
def test_who_counts(gone: Member, counts: bool) -> None:
    assert choose(BOTH, [member(*BOTH), gone]).first == (OLD if counts else NEW)


def test_who_supports_one_uses_it_whatever_the_others_do() -> None:
    for others in product([(OLD,), (NEW,), BOTH], repeat=2):
        assert choose([OLD], [member(OLD), *(member(*supports) for supports in others)]) == EpochUse(OLD)


def test_all_that_see_the_same_use_the_same() -> None:
    kinds = [(OLD,), (NEW,), BOTH, (OLD, NEW), (OTHER, OLD)]
    for seen in product(kinds, repeat=4):
        members = [member(*supports) for supports in seen]
        used = {choose(supports, members) for supports in seen if supports == BOTH}
        assert len(used) <= 1


def test_who_cannot_agree_is_named() -> None:
    odd = member(OTHER)
    assert incompatible_members(BOTH, [member(*BOTH), member(OLD), member(OTHER, NEW), odd]) == [odd]


def test_a_change_waits_until_all_are_in_grace() -> None:
    old, new = EpochUse(OLD), EpochUse(NEW, alternating=True)
    epoch_switch = EpochSwitch(old).after(old, 10.0)
    assert epoch_switch == EpochSwitch(old)
    epoch_switch = epoch_switch.after(new, 11.0)
    turns = EpochUse(OLD, alternating=True)
    assert epoch_switch == EpochSwitch(old, turns, 11.0)
    assert epoch_switch.after(new, 11.0 + ARM_S - 0.01) == epoch_switch
    assert epoch_switch.after(old, 12.0) == EpochSwitch(old), "the last node is gone again"
    epoch_switch = epoch_switch.after(new, 11.0 + ARM_S)
    assert epoch_switch == EpochSwitch(turns)
    epoch_switch = epoch_switch.after(new, 14.0)
    assert epoch_switch == EpochSwitch(turns, new, 14.0)
    assert epoch_switch.after(old, 15.0) == EpochSwitch(turns, old, 15.0), "it waits anew"
    assert epoch_switch.after(new, 14.0 + ARM_S) == EpochSwitch(new)


@pytest.mark.parametrize(("start", "wanted"), list(product(USES, repeat=2)))
def test_the_first_epoch_changes_only_while_both_alternate(start: EpochUse, wanted: EpochUse) -> None:
    way = [start]
    while way[-1] != wanted:
        way.append(way[-1].towards(wanted))
        assert len(way) <= 4
    for before, after in pairwise(way):
        assert before.first == after.first or (before.alternating and after.alternating)


def test_every_version_has_its_algorithms() -> None:
    assert tuple(algorithm.ALGORITHMS) == TABLE_VERSIONS
    assert all(set(kinds) == {"rendezvous", "maglev"} for kinds in algorithm.ALGORITHMS.values())
