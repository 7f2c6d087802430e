# SPDX-License-Identifier: Apache-2.0
"""The rules of the view, one by one. Time is an argument; nothing sleeps."""

import weakref
from collections import UserDict
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from support.observations import ALL_UP, FIVE, NAMED, WEB, A, B, C, D, E, Surroundings, answers, node_state, silent

from agent.channel.state import MAX_UNREACHABLE
from agent.membership.reachability import OWNS_S
from agent.membership.view import FORGET_S, View
from agent.model import Member, Share, State

OTHERS = [address for address in FIVE if address != A]


def member(around: Surroundings, address: object = A) -> Member:
    """The member of that address in the view."""
    return next(one for one in around.view.members if one.address == address)


def found_silent(around: Surroundings, since: float, by: list = OTHERS) -> dict:
    """What is observed when A does not answer this node, nor those in `by`."""
    return {"liveness": {A: silent(since)}, "states": {other: node_state(unreachable=(A,)) for other in by}}


# Who becomes a member


def test_who_answers_and_says_what_it_serves_is_a_member() -> None:
    around = Surroundings()
    assert around.see(1) == ALL_UP
    assert member(around).shares == {WEB: Share(100, 100, State.UP)}
    assert member(around).why == "answers, and publishes what it serves"


@pytest.mark.parametrize(
    "missing",
    [
        {"liveness": {A: None}},
        {"liveness": {A: silent(0)}},
        {"states": {A: None}},
        {"states": {A: node_state(State.LEFT)}},
    ],
    ids=["never answered", "silent", "no state", "left"],
)
def test_who_is_named_alone_takes_no_place(missing: dict) -> None:
    around = Surroundings()
    assert A not in around.see(1, **missing)
    assert A not in around.see(1000, named_completely=True)


def test_who_is_not_named_is_no_member_although_it_answers() -> None:
    around = Surroundings()
    assert A not in around.see(1, named={A: None})


def test_state_of_another_boot_makes_no_member() -> None:
    around = Surroundings()
    assert A not in around.see(1, states={A: node_state(boot=2)})
    assert around.see(2, liveness={A: answers(boot=2)}) == ALL_UP


# Silence


def test_silent_member_is_passed_over_at_once_and_owns_no_row_after_three_seconds() -> None:
    around = Surroundings()
    around.see(1)
    assert around.see(10, **found_silent(around, 9.8)) == ALL_UP
    assert around.view.silent == {A: 9.8}
    assert around.view.unreachable == (A,)
    assert around.view.next_at == 9.8 + OWNS_S
    assert around.see(9.8 + OWNS_S - 0.1) == ALL_UP
    assert around.see(9.8 + OWNS_S) == {**ALL_UP, A: State.LOST}
    assert member(around).share(WEB) == Share(100, 0, State.LOST)  # later places, by the nominal weight


def test_lost_member_is_forgotten_after_ten_minutes() -> None:
    around = Surroundings()
    around.see(1)
    around.see(10, **found_silent(around, 10.0))
    around.see(20)
    assert around.view.next_at == 10 + FORGET_S
    assert around.see(10 + FORGET_S - 0.1)[A] is State.LOST
    assert A not in around.see(10 + FORGET_S)
    assert A not in around.see(2000)
    assert A in around.see(2001, liveness={A: answers(2000)})


@pytest.mark.parametrize("after_s", [0.5, 15.0, 60.0])
def test_member_that_answers_again_is_back_undamped(after_s: float) -> None:
    around = Surroundings()
    around.see(1)
    around.see(10, **found_silent(around, 10.0))
    around.see(10 + after_s)
    assert around.see(10.1 + after_s, liveness={A: answers(10.1 + after_s)}) == ALL_UP
    assert (around.view.silent, member(around).why) == ({}, "answers again")
    assert around.view.next_at == float("inf")


def test_member_that_one_node_does_not_reach_keeps_its_rows_while_others_do() -> None:
    around = Surroundings()
    around.see(1)
    assert around.see(10, **found_silent(around, 10.0, by=[B])) == ALL_UP
    assert around.see(100) == ALL_UP
    assert member(around).why == "does not answer this node, but others"
    assert around.view.silent == {A: 10.0}
    assert around.see(101, states={other: node_state(unreachable=(A,)) for other in OTHERS})[A] is State.LOST


def test_member_that_answers_this_node_but_not_another_is_doubted_while_that_lasts() -> None:
    around = Surroundings()
    around.see(1)
    around.see(10, states={B: node_state(unreachable=(A,))})
    around.see(20, states={C: node_state(unreachable=(A,))})
    assert (around.view.doubted, around.view.silent) == ({A: 10}, {})
    around.see(30, liveness={A: silent(29)})
    assert around.view.doubted == {}
    around.see(40, liveness={A: answers(40)}, states={B: node_state(), C: node_state()})
    assert around.view.doubted == {}


def test_others_keep_a_place_but_give_none() -> None:
    around = Surroundings()
    assert A not in around.see(1, liveness={A: silent(0)})
    assert A not in around.see(2, states={other: node_state(unreachable=()) for other in OTHERS})


@pytest.mark.parametrize("voice", [silent(10), answers(agent_silent=True)], ids=["silent", "agent silent"])
def test_who_is_silent_itself_vouches_for_nobody(voice: object) -> None:
    around = Surroundings()
    around.see(1)
    around.see(10, **found_silent(around, 10.0, by=[other for other in OTHERS if other != B]))
    assert around.see(20) == ALL_UP
    assert around.see(21, liveness={B: voice})[A] is State.LOST  # type: ignore[dict-item]


def test_who_appeared_after_the_silence_or_lists_as_many_as_it_can_vouches_for_nobody() -> None:
    """The one may never have known the node, the other may have had no room for it."""
    around = Surroundings()
    around.see(1, liveness={E: None}, states={E: None})
    around.see(10, **found_silent(around, 10.0, by=[B, C, D]))
    around.see(11, liveness={E: answers(11)}, states={E: node_state()})
    assert not around.view.reaches(E, A)
    assert around.see(13)[A] is State.LOST
    many = tuple(IPv4Address(f"10.0.1.{number}") for number in range(MAX_UNREACHABLE))
    around = Surroundings()
    around.see(1)
    around.see(10, **found_silent(around, 10.0, by=[B, C, D]))
    assert around.view.reaches(E, A)
    assert around.see(13, states={E: node_state(unreachable=many)})[A] is State.LOST


@pytest.mark.parametrize("voice", OTHERS)
def test_the_last_one_that_reached_a_member_leaves(voice: IPv4Address) -> None:
    """Nothing else changes, and nothing may for long."""
    around = Surroundings()
    around.see(1)
    around.see(10, **found_silent(around, 10.0, by=[other for other in OTHERS if other != voice]))
    assert around.see(20)[A] is State.UP
    assert around.see(21, states={voice: node_state(State.LEFT)})[A] is State.LOST


# What it publishes


def test_member_that_drains_or_changes_weight_says_so_itself() -> None:
    around = Surroundings()
    around.see(1)
    assert around.see(2, states={A: node_state(State.DRAINING, version=2)})[A] is State.DRAINING
    assert (member(around).change, member(around).changed) == ("its state changed to draining", 2)
    around.see(3, states={A: node_state(weight=50, version=3)})
    around.see(4, states={A: node_state(weight=60, version=4)})
    assert member(around).change == "its effective weight increased"
    assert member(around).version == 4


def test_member_that_leaves_is_removed_at_once() -> None:
    around = Surroundings()
    around.see(1)
    assert A not in around.see(2, states={A: node_state(State.LEFT, version=2)})
    assert around.see(3, states={A: node_state(version=3)}) == ALL_UP


def test_withdrawn_identity_changes_nothing() -> None:
    around = Surroundings()
    around.see(1)
    members = around.view.members
    around.see(2, named=dict.fromkeys(FIVE), named_completely=False)
    assert around.view.members is members


@pytest.mark.parametrize("liveness", [answers(ready=False), answers(agent_silent=True)], ids=["not ready", "no agent"])
def test_node_without_agent_or_tables_gets_no_new_flows_and_keeps_its_places(liveness: object) -> None:
    around = Surroundings()
    around.see(1)
    assert around.see(2, liveness={A: liveness})[A] is State.DRAINING  # type: ignore[dict-item]
    assert member(around).share(WEB) == Share(100, 0, State.DRAINING)
    assert around.see(3, liveness={A: answers()}) == ALL_UP
    assert member(around).share(WEB) == Share(100, 100, State.UP)


def test_member_that_booted_has_no_place_until_it_says_what_it_serves() -> None:
    around = Surroundings()
    around.see(1)
    assert A not in around.see(2, liveness={A: answers(boot=2)})
    assert A not in around.see(3)
    assert around.see(4, states={A: node_state(boot=2)}) == ALL_UP


def test_member_whose_state_of_the_next_boot_comes_first_stays() -> None:
    around = Surroundings()
    around.see(1)
    assert around.see(2, states={A: node_state(boot=2)}) == ALL_UP
    assert around.see(3, liveness={A: answers(boot=2)}) == ALL_UP
    assert member(around).change == "it booted"


# What an earlier agent saved


def saved(around: Surroundings) -> View:
    return View(around.view.members)


def test_saved_members_stay_until_something_arrives_from_them() -> None:
    before = Surroundings()
    before.see(1)
    before.see(10, **found_silent(before, 10.0))
    before.see(20)
    after = Surroundings(saved(before), replace(before.observed, liveness={}, states={}))
    assert after.see(21) == {**ALL_UP, A: State.LOST}
    assert after.view.silent == {A: 10.0}
    assert not after.view.is_complete()
    assert after.see(22, liveness={C: answers()})[C] is State.UP
    assert C not in after.see(23, liveness={C: answers(boot=2)})


def test_saved_member_whose_agent_is_silent_is_known_by_what_was_saved() -> None:
    before = Surroundings()
    before.see(1)
    after = Surroundings(saved(before), replace(before.observed, states={other: node_state() for other in OTHERS}))
    assert after.see(2, liveness={A: answers(agent_silent=True)}) == {**ALL_UP, A: State.DRAINING}


def test_saved_silence_that_cannot_be_is_mended() -> None:
    """A damaged file: lost without a silence, or silent from a time to come on."""
    around = Surroundings()
    around.see(1)
    saved = (replace(member(around), lost=True), replace(member(around, B), silent_since=1e9))
    around = Surroundings(View(saved))
    around.see(100, liveness={B: silent(100)}, states={other: node_state(unreachable=(B,)) for other in (A, C, D, E)})
    assert member(around).state is State.UP
    assert around.view.silent == {B: 100}
    assert around.see(103)[B] is State.LOST


def test_states_that_are_gone_take_no_memory() -> None:
    """A state of 1,000 services is a third of a megabyte, and may change many times a second."""
    around = Surroundings()
    around.see(1)
    old = []
    for version in range(2, 102):
        state = replace(node_state(version=version), shares=UserDict(node_state().shares))
        old.append(weakref.ref(state.shares))
        around.see(version, states={A: state})
    del state
    assert sum(one() is not None for one in old) <= 2 * len(FIVE) + 16


def test_nothing_changes_by_itself() -> None:
    around = Surroundings()
    around.see(1)
    members = around.view.members
    assert around.view.next_at == float("inf")
    around.see(10_000, named={A: NAMED})
    assert around.view.members is members
