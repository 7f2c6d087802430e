# SPDX-License-Identifier: Apache-2.0
"""An observer that is cut off judges no node: by what it knows that it is, and for how long."""

import pytest
from support.echo_net import ROUTER
from support.one_asker import SILENT, UP, A, B, C, D, net, state

from agent.liveness.isolation import ISOLATION_S, QUIET_S


def test_a_cut_off_observer_judges_no_node() -> None:
    made = net()
    made.down |= {B, C, D, ROUTER}
    made.run(1)
    asker = made.askers[A]
    assert asker.isolated
    assert [state(made, address) for address in (B, C, D)] == [UP, UP, UP]
    made.down -= {C, ROUTER}
    made.run(1)
    assert not asker.isolated
    assert [state(made, address) for address in (B, C, D)] == [SILENT, UP, SILENT]


def test_the_router_proves_that_the_observer_is_not_cut_off() -> None:
    made = net(2)
    made.down.add(B)
    made.run(0.5)
    assert state(made) is SILENT
    assert not made.askers[A].isolated


def test_a_router_proves_nothing_while_nodes_ask() -> None:
    """They live, and something here drops their answers: a packet filter that closes the port."""
    made = net()
    asker = made.askers[A]
    made.down |= {B, C, D}
    for _ in range(200):
        asker.questioned(made.now)
        made.run(0.05)
    assert asker.isolated, "longer than a silent isolation lasts"
    assert asker.is_asked(made.now)
    assert [state(made, address) for address in (B, C, D)] == [UP, UP, UP]
    made.run(QUIET_S + 0.5)
    assert (asker.isolated, asker.is_asked(made.now)) == (False, False), "they ask no more"
    assert [state(made, address) for address in (B, C, D)] == [SILENT, SILENT, SILENT]


def test_a_node_that_answers_proves_it_while_nodes_ask() -> None:
    made = net()
    made.down |= {B, C}
    for _ in range(20):
        made.askers[A].questioned(made.now)
        made.run(0.05)
    assert [state(made, address) for address in (B, C, D)] == [SILENT, SILENT, UP]


def test_the_last_question_of_a_dead_node_delays_nothing() -> None:
    made = net(2)
    made.askers[A].questioned(made.now)
    made.down.add(B)
    made.run(0.5)
    assert state(made) is SILENT


def test_an_isolated_node_serves_alone_after_five_seconds() -> None:
    made = net()
    made.down |= {B, C, D, ROUTER}
    made.run(ISOLATION_S)
    assert made.askers[A].isolated
    made.run(1)
    assert not made.askers[A].isolated
    assert [state(made, address) for address in (B, C, D)] == [SILENT, SILENT, SILENT]
    made.down.clear()
    made.run(1)
    assert [state(made, address) for address in (B, C, D)] == [UP, UP, UP]


@pytest.mark.parametrize("seconds", [0.05 * i for i in range(1, 20)] + [2, 4, 4.9])
def test_a_short_cut_changes_nothing(seconds: float) -> None:
    made = net()
    made.down |= {A}
    made.run(seconds)
    made.down.clear()
    made.run(3)
    assert made.verdicts == []
    assert not made.askers[A].isolated
