# SPDX-License-Identifier: Apache-2.0
"""When a node that starts makes its first table: what it waits for, and for how long. Time is an argument."""

from dataclasses import replace

import pytest
from support.observations import FIVE, NAMED, A, B, C, Surroundings, answers, node_state, silent

from agent.membership.observations import Observations
from agent.membership.received import Named
from agent.membership.start import ALONE_S, START_S
from agent.membership.view import View


def test_view_is_complete_when_everybody_named_has_answered_or_is_silent() -> None:
    around = Surroundings()
    around.see(0, liveness={A: None}, named_completely=False)
    assert not around.view.is_complete()
    around.see(0.1, named_completely=True)
    assert not around.view.is_complete()
    around.see(0.2, liveness={A: answers()}, states={A: None})
    assert not around.view.is_complete()
    around.see(0.3, liveness={A: silent(0.3)})
    assert around.view.is_complete()


def test_view_is_complete_after_five_seconds_at_most() -> None:
    around = Surroundings()
    around.see(100, liveness={A: None}, named_completely=False)
    assert around.view.next_at == 100 + START_S
    around.see(100 + START_S - 0.1)
    assert not around.view.is_complete()
    around.see(100 + START_S)
    assert around.view.is_complete()


def test_view_of_a_node_that_knows_no_other_is_complete_after_five_seconds() -> None:
    """The first one, or the only one, whose routers are down."""
    view = View()
    view.observe(Observations(), 100)
    assert (view.is_complete(), view.next_at) == (False, 100 + START_S)
    view.observe(Observations(), 100 + START_S)
    assert view.is_complete()


@pytest.mark.parametrize(
    ("change", "complete"),
    [
        ({}, False),
        ({"states": {A: node_state()}}, True),
        ({"liveness": dict.fromkeys(FIVE, answers(agent_silent=True))}, True),
        ({"liveness": dict.fromkeys(FIVE, answers(ready=False))}, True),
        ({"liveness": dict.fromkeys(FIVE, silent(5))}, True),
    ],
    ids=["no state", "one speaks", "no agent lives", "none has tables", "all silent"],
)
def test_view_of_a_node_to_which_none_speaks_is_not_complete_while_others_forward(change: dict, complete: bool) -> None:
    """Another key, or a filter: with a table of itself alone it would reset whatever the router sends it."""
    around = Surroundings()
    around.see(0, states=dict.fromkeys(FIVE))
    around.see(START_S)
    assert not around.view.is_complete()
    around.see(100, **change)
    assert around.view.is_complete() == complete


ANNOUNCER = replace(NAMED, announces=True)


def cut_off_at_the_start(**changes: object) -> Surroundings:
    """Routers name five nodes, of which A and B announce; none has ever answered."""
    around = Surroundings()
    named = {A: ANNOUNCER, B: ANNOUNCER}
    around.see(0, **{"named": named, "liveness": dict.fromkeys(FIVE), "states": dict.fromkeys(FIVE), **changes})  # type: ignore[arg-type]
    return around


def test_node_cut_off_from_nodes_that_routers_send_to_waits_for_ten_minutes() -> None:
    """It would reset their connections. The control: nobody announces, as when all start at once."""
    around = cut_off_at_the_start()
    around.see(1, liveness=dict.fromkeys(FIVE, silent(1)))
    around.see(START_S)
    assert not around.view.is_complete()
    assert around.view.waits_alone(START_S)
    assert around.view.next_at == ALONE_S
    around.see(ALONE_S - 0.1)
    assert not around.view.is_complete()
    around.see(ALONE_S)
    assert around.view.is_complete()
    assert not around.view.waits_alone(ALONE_S)
    control = cut_off_at_the_start(named={})
    control.see(1, liveness=dict.fromkeys(FIVE, silent(1)))
    assert control.view.is_complete()


@pytest.mark.parametrize(
    "change",
    [
        {"named": {A: None, B: None}},
        {"named": {A: NAMED, B: NAMED}},
        {"liveness": {C: answers()}, "states": {C: node_state()}},
    ],
    ids=["they are dead: the routers withdraw them", "they withdraw their VIPs", "a node answers and speaks"],
)
def test_wait_of_a_node_cut_off_is_over_at_once(change: dict) -> None:
    around = cut_off_at_the_start(liveness=dict.fromkeys(FIVE, silent(0)))
    around.see(20)
    assert not around.view.is_complete()
    around.see(21, **change)
    assert around.view.is_complete()
    assert not around.view.waits_alone(21)


def test_last_one_alive_does_not_wait() -> None:
    """After a loss of power routers have withdrawn the others when it boots; files name them still."""
    around = Surroundings(observed=Observations(dict.fromkeys(FIVE, Named()), True))
    around.see(0, liveness=dict.fromkeys(FIVE, silent(0)))
    assert around.view.is_complete()


def test_saved_members_are_no_reason_to_wait() -> None:
    """Tables in the kernel name others: they go on, whatever has become of the keys."""
    before = Surroundings()
    before.see(1)
    around = Surroundings(View(before.view.members))
    around.see(10, states=dict.fromkeys(FIVE))
    around.see(10 + START_S)
    assert around.view.is_complete()
    around = Surroundings(View(before.view.members))
    around.see(10, named={A: ANNOUNCER}, liveness=dict.fromkeys(FIVE, silent(10)))
    assert around.view.is_complete()
