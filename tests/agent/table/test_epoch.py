# SPDX-License-Identifier: Apache-2.0
"""The use of epochs among some members, and the steps of its change. Pure: no clock, no network."""

from ipaddress import IPv4Address
from itertools import pairwise, permutations, product

import pytest

from agent.model import Member, Share, State
from agent.table import algorithm
from agent.table.epoch import (
    ARM_S,
    CHANGED_IN,
    TABLE_VERSIONS,
    EpochSwitch,
    EpochUse,
    choose,
    incompatible_members,
    since,
)

OLD, NEW, OTHER = 1, 2, 3
BOTH = (NEW, OLD)
USES = [EpochUse(epoch, alternating) for epoch in (OLD, NEW) for alternating in (False, True)]


def member(*supports: int, state: State = State.UP, lost: bool = False) -> Member:
    shares = {"192.0.2.10:443/tcp": Share(100, 100 if state is State.UP else 0, state)}
    return Member(IPv4Address("10.0.0.11"), supports, shares, lost, 0.0, "")


@pytest.mark.parametrize(
    ("what", "members", "expected"),
    [
        ("no other node has it yet", [BOTH, [OLD], [OLD]], EpochUse(OLD)),
        ("one node does not have it yet", [BOTH, BOTH, [OLD]], EpochUse(OLD)),
        ("all have it", [BOTH, BOTH, BOTH], EpochUse(NEW, alternating=True)),
        ("some know only the new one", [BOTH, [NEW], BOTH], EpochUse(NEW)),
        (
            "some know only one, some only the other: the previous one, which has the connections",
            [BOTH, [NEW], [OLD]],
            EpochUse(OLD),
        ),
        ("another node starts the next change", [BOTH, [OTHER, NEW]], EpochUse(NEW)),
        ("a node that shares no epoch", [BOTH, BOTH, [OTHER]], EpochUse(NEW, alternating=True)),
        ("alone", [BOTH], EpochUse(NEW, alternating=True)),
    ],
)
def test_choice_of_epochs(what: str, members: list[tuple[int, ...]], expected: EpochUse) -> None:
    for order in permutations(members):
        assert choose(BOTH, [member(*supports) for supports in order]) == expected, what


@pytest.mark.parametrize(("other", "counts"), [
    (member(OLD, lost=True), False),
    (member(OLD, state=State.LEFT), False),
    (member(OLD, state=State.DRAINING), True),
])  # fmt: skip
def test_members_that_count(other: Member, counts: bool) -> None:
    assert choose(BOTH, [member(*BOTH), other]).first == (OLD if counts else NEW)


def test_node_with_one_epoch_uses_it_whatever_others_support() -> None:
    for others in product([(OLD,), (NEW,), BOTH], repeat=2):
        assert choose([OLD], [member(OLD), *(member(*supports) for supports in others)]) == EpochUse(OLD)


def test_nodes_with_the_same_view_choose_the_same() -> None:
    kinds = [(OLD,), (NEW,), BOTH, (OLD, NEW), (OTHER, OLD)]
    for seen in product(kinds, repeat=4):
        members = [member(*supports) for supports in seen]
        used = {choose(supports, members) for supports in seen if supports == BOTH}
        assert len(used) <= 1


def test_incompatible_members() -> None:
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
    assert epoch_switch.after(old, 12.0) == EpochSwitch(old), "the last node disappeared again"
    epoch_switch = epoch_switch.after(new, 11.0 + ARM_S)
    assert epoch_switch == EpochSwitch(turns)
    epoch_switch = epoch_switch.after(new, 14.0)
    assert epoch_switch == EpochSwitch(turns, new, 14.0)
    assert epoch_switch.after(old, 15.0) == EpochSwitch(turns, old, 15.0), "it waits again"
    assert epoch_switch.after(new, 14.0 + ARM_S) == EpochSwitch(new)


@pytest.mark.parametrize(("start", "wanted"), list(product(USES, repeat=2)))
def test_the_first_epoch_changes_only_while_both_alternate(start: EpochUse, wanted: EpochUse) -> None:
    steps = [start]
    while steps[-1] != wanted:
        steps.append(steps[-1].towards(wanted))
        assert len(steps) <= 4
    for before, after in pairwise(steps):
        assert before.first == after.first or (before.alternating and after.alternating)


def test_every_version_has_its_algorithms() -> None:
    assert {kind: tuple(versions) for kind, versions in algorithm.ALGORITHMS.items()} == CHANGED_IN
    assert set(CHANGED_IN) == {"rendezvous", "maglev"}
    assert {version for versions in algorithm.ALGORITHMS.values() for version in versions} == set(TABLE_VERSIONS)
    assert tuple(range(TABLE_VERSIONS[0], TABLE_VERSIONS[-1] + 1)) == TABLE_VERSIONS


@pytest.mark.parametrize(("kind", "versions"), [("rendezvous", [1, 1]), ("maglev", [1, 2])])
def test_a_version_that_does_not_change_a_hash_is_the_one_before(kind: str, versions: list[int]) -> None:
    assert [since(version, kind) for version in TABLE_VERSIONS] == versions
