# SPDX-License-Identifier: Apache-2.0
"""What the status says of the others: who answers how, who agrees, and which answer only some."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import cast

from support.observations import A, B, C, D, E, answers, node_state

from agent.channel.state import NodeState
from agent.control.membership_status import echo_status, membership_status
from agent.liveness.question import PathStats, Via
from agent.membership.agreement import Agreement
from agent.node.membership import Membership

OWN = IPv4Address("10.0.0.10")


def membership(
    agreement: Agreement | None = None,
    unreachable: tuple[IPv4Address, ...] = (),
    states: Mapping[IPv4Address, NodeState] | None = None,
    isolated: bool = False,
    ignorant: tuple[tuple[IPv4Address, IPv4Address], ...] = (),
) -> Membership:
    """What the status reads, without sockets."""
    stats = {Via.PLAIN: PathStats(asked=40, unanswered=1, rtt_s=0.000_25), Via.GUE: PathStats(asked=3, unanswered=3)}
    made = SimpleNamespace(
        obstacles=(("silent", str(A), "A is silent"), ("services", "x", "A serves x, this node does not")),
        own=OWN,
        agreement=agreement or Agreement(4, {}, 100.0),
        isolated=isolated,
        view=SimpleNamespace(unreachable=unreachable, reaches=lambda other, address: (other, address) not in ignorant),
        liveness={A: answers(), B: answers(agent_silent=True), D: answers()},
        echo_stats=lambda address: stats if address in (A, B) else {},
        present_states=lambda: states or {},
    )
    return cast(Membership, made)


def test_agreement_and_isolation() -> None:
    assert membership_status(membership()) == {
        "nodes": 4, "agree": True, "since": 100.0, "differing": [], "isolated": False, "unreachable": [],
        "services": ["A serves x, this node does not"],
    }  # fmt: skip
    differing = membership_status(membership(Agreement(4, {B: "tables", A: "view"}, 5.0), isolated=True))
    assert (differing["agree"], differing["isolated"]) == (False, True)
    assert differing["differing"] == [{"address": str(A), "in": "view"}, {"address": str(B), "in": "tables"}]


def test_node_that_only_some_reach() -> None:
    """Each voice counts about others, not about itself."""
    states = {A: node_state(), B: node_state(unreachable=(D, C)), C: node_state(), D: node_state()}
    assert membership_status(membership(unreachable=(C,), states=states))["unreachable"] == [
        {"address": str(C), "by": [str(OWN), str(B)], "reached_by": [str(A), str(D)]},
        {"address": str(D), "by": [str(B)], "reached_by": [str(OWN), str(A), str(C)]},
    ]


def test_who_does_not_know_a_node_is_not_named_as_reaching_it() -> None:
    """D is new, and this node does not know E either."""
    states = {A: node_state(unreachable=(E,)), B: node_state(unreachable=(E,)), D: node_state()}
    assert membership_status(membership(states=states, ignorant=((D, E),)))["unreachable"] == [
        {"address": str(E), "by": [str(A), str(B)], "reached_by": []}
    ]


def test_echoes_by_the_way_that_they_take() -> None:
    assert echo_status(membership(), A) == {
        "answers": True,
        "agent_lives": True,
        "ways": {
            "plain": {"rtt_ms": 0.25, "asked": 40, "unanswered": 1},
            "gue": {"rtt_ms": None, "asked": 3, "unanswered": 3},
        },
    }
    assert echo_status(membership(), B)["agent_lives"] is False
    assert echo_status(membership(), C) == {"answers": None, "agent_lives": False, "ways": {}}
