# SPDX-License-Identifier: Apache-2.0
"""Nodes that are named by one voice alone: each with what the operator should look at."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from support.observations import ALL_UP, FIVE, NAMED, A, B, C, Surroundings, answers, node_state, silent

from agent.liveness.question import Liveness, PathStats, Via
from agent.membership.observations import Observations
from agent.membership.obstacle import blocked, cut_off, cut_off_at_start, obstacles, other_clusters
from agent.membership.received import OtherCluster

F, OWN = IPv4Address("10.0.0.16"), IPv4Address("10.0.0.99")
PORT = 4742


def lines(observed: Observations, members: tuple[IPv4Address, ...] = FIVE) -> list[tuple[str, IPv4Address]]:
    """The kind and the node of each obstacle; each line begins with the node's address."""
    found = obstacles(observed, OWN, members, PORT)
    assert all(text.startswith(f"{node} ") for _, node, text in found)
    return [(kind, IPv4Address(node)) for kind, node, _ in found]


def test_sound_cluster_has_none() -> None:
    surroundings = Surroundings()
    assert surroundings.see(0.0) == ALL_UP
    assert lines(surroundings.observed) == []


@pytest.mark.parametrize(
    ("liveness", "says", "kind"),
    [
        (silent(1.0), None, "silent"),
        (silent(1.0), node_state(), "silent"),
        (answers(), None, "no state"),
        (answers(boot=2), node_state(boot=1), "no state"),
        (None, None, None),
        (Liveness(None, 0.0), None, None),
    ],
    ids=["nothing", "its agent alone", "no agent", "the state of an earlier boot", "just named", "still being asked"],
)
def test_candidate_that_becomes_no_member(liveness: Liveness | None, says: object, kind: str | None) -> None:
    surroundings = Surroundings()
    seen = surroundings.see(0.0, named={F: NAMED}, liveness={F: liveness}, states={F: says})  # type: ignore[dict-item]
    assert F not in seen
    assert lines(surroundings.observed) == ([(kind, F)] if kind else [])


def test_line_of_a_silent_candidate_names_the_port() -> None:
    observed = replace(Surroundings().observed, liveness={A: silent(0.0)}, named={A: NAMED})
    ((_, _, text),) = obstacles(observed, OWN, (), 4750)
    assert "does not answer on UDP 4750" in text


def test_silent_member_is_one_as_long_as_a_router_names_it() -> None:
    """It is passed over, then lost; but a router names it, so it is not dead."""
    surroundings = Surroundings()
    surroundings.see(0.0)
    surroundings.see(1.0, liveness={A: silent(1.0)})
    assert lines(surroundings.observed) == [("silent", A)]
    surroundings.see(2.0, named={A: None})
    assert lines(surroundings.observed) == []


def test_member_that_is_not_ready() -> None:
    surroundings = Surroundings()
    surroundings.see(0.0)
    surroundings.see(1.0, liveness={A: answers(ready=False)})
    assert lines(surroundings.observed) == [("not ready", A)]


def test_node_that_answers_and_does_not_reach_this_one() -> None:
    surroundings = Surroundings()
    surroundings.see(0.0, states={A: node_state(unreachable=(B, OWN)), B: node_state(unreachable=(A,))})
    assert lines(surroundings.observed) == [("one way", A)]
    surroundings.see(1.0, liveness={A: silent(1.0)}, named={A: None})
    assert lines(surroundings.observed) == [], "neither reaches the other"


def test_member_that_no_router_names() -> None:
    surroundings = Surroundings()
    surroundings.see(0.0)
    assert surroundings.see(1.0, named={A: None, B: None}, liveness={B: silent(1.0)})[A] == ALL_UP[A]
    assert lines(surroundings.observed) == [("unnamed", A)], "the other one is gone: that is no fault of the routers"


def test_node_that_answers_but_not_by_tunnel() -> None:
    def kinds(lost: int, via: Via = Via.GUE) -> list[tuple[str, str]]:
        stats = {A: {Via.PLAIN: PathStats(), via: PathStats(in_a_row=lost)}, B: {via: PathStats(in_a_row=lost)}}
        return [
            (kind, about) for kind, about, _ in blocked(observed, {Via.GUE}, lambda address: stats.get(address, {}))
        ]

    observed = Observations(liveness={A: answers(), B: silent(0.0), C: answers()})
    assert kinds(3) == [], "it is asked four times"
    assert kinds(4) == [("encapsulation", f"{A} gue")], "of a silent one nothing is known"
    assert kinds(4, Via.IPIP) == [], "no packet uses it any more"
    ((_, _, text),) = blocked(observed, {Via.GUE}, lambda address: {Via.GUE: PathStats(in_a_row=address == A and 4)})
    assert text.endswith("see whether anything on the path drops UDP 6080")


def test_obstacles_are_in_the_order_of_addresses() -> None:
    observed = Observations(named=dict.fromkeys((F, B, A), NAMED), liveness=dict.fromkeys((F, B, A), silent(0.0)))
    assert [address for _, address in lines(observed, ())] == [A, B, F]


def test_node_that_announces_a_vip_for_another_cluster() -> None:
    ((_, _, text),) = other_clusters([OtherCluster(F, 4243, IPv4Address("192.0.2.10"))], 4242)
    assert text.startswith("10.0.0.16 announces 192.0.2.10 for cluster 4243, this node for cluster 4242: give both")


def test_node_that_is_cut_off_knows_from_which_direction() -> None:
    """Questions that arrive show that the way in is open."""
    assert cut_off(PORT, is_asked=False).startswith("no other node answers this one on UDP 4742: ")
    assert cut_off(PORT, is_asked=True).startswith("other nodes ask this one on UDP 4742, but none answers it: ")
    assert "10 minutes at most" in cut_off_at_start(PORT)
