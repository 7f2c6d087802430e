# SPDX-License-Identifier: Apache-2.0
"""What the removal of a node changes, by the tables that the nodes would build then."""

import asyncio
import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest

from agent.connections.held import HeldRows
from agent.connections.monitor import Held
from agent.control.simulation import Cluster, at_risk, chosen_services, simulate
from agent.errors import AgentError
from agent.model import Candidate, Member, Share, State
from agent.table import algorithm
from agent.table.epoch import Epoch

EPOCH = Epoch(5, 1, 4096, 2, b"")
NODES = [IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13, 14)]
KEY = "192.0.2.10:443/tcp"


def cluster() -> Cluster:
    share = {KEY: Share(100, 100, State.UP)}
    members = [Member(address, (5,), share, False, 0.0, "") for address in NODES]
    return Cluster(NODES[0], {"web": (KEY, "rendezvous")}, members, EPOCH, None)


def asked(**query: str) -> Any:
    return json.loads(asyncio.run(simulate(cluster(), query)).body)


def test_without_a_removal_nothing_moves() -> None:
    (web,) = asked()["services"]
    assert (web["name"], web["moved"], web["at_risk_here"]) == ("web", 0, None)
    assert all(one["rows"] == one["rows_after"] for one in web["members"])
    assert all(800 < one["rows"] < 1250 for one in web["members"])


@pytest.mark.parametrize("removed", [["10.0.0.12"], ["10.0.0.12", "10.0.0.13"]])
def test_rows_of_those_that_stay_do_not_move(removed: list[str]) -> None:
    (web,) = asked(remove=",".join(removed), service="web")["services"]
    rows = {one["address"]: (one["rows"], one["rows_after"]) for one in web["members"]}
    assert web["moved"] == sum(rows[address][0] for address in removed)
    assert all(rows[address][1] == 0 for address in removed)
    assert sum(after for _, after in rows.values()) == EPOCH.rows


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"remove": "10.0.0.99"}, "10.0.0.99 is no member; members are 10.0.0.11, "),
        ({"service": "x"}, "x is not a service of this node with rows; it has "),
    ],
)
def test_what_is_not_there(query: dict[str, str], message: str) -> None:
    with pytest.raises(AgentError, match=message):
        asked(**query)


@pytest.mark.parametrize("query", [{}, {"service": "x"}])
def test_services_of_mode_nat_have_no_rows(query: dict[str, str]) -> None:
    with pytest.raises(AgentError, match="no service of this node has rows: all have mode nat"):
        chosen_services(replace(cluster(), services={}), query.get("service"))


def test_connections_in_rows_whose_chain_does_not_name_this_node_are_at_risk() -> None:
    """The control: in a row whose chain does, none is."""
    members = [Candidate(address, 100, 100, State.UP) for address in NODES]
    table = algorithm.build(1, "rendezvous", members, EPOCH.rows, EPOCH.chain)
    named = (table.places == table.members.index(NODES[0])).any(axis=1)
    inside, outside = np.flatnonzero(named)[:1], np.flatnonzero(~named)[:1]

    def held(*rows: Any) -> Held:
        numbers = np.concatenate(rows).astype(np.uint32)
        made = HeldRows(numbers, np.full(len(numbers), 7, np.uint32))
        return Held({KEY: {EPOCH.number: made}}, {}, 0.0, 0.0)

    assert at_risk(NODES[0], table, held(inside, outside), KEY, EPOCH) == 7
    assert at_risk(NODES[0], table, held(inside), KEY, EPOCH) == 0
    others = algorithm.build(1, "rendezvous", members[1:], EPOCH.rows, EPOCH.chain)
    assert at_risk(NODES[0], others, held(inside, outside), KEY, EPOCH) == 14, "it is removed itself"
