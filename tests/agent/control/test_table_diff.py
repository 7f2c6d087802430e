# SPDX-License-Identifier: Apache-2.0
"""Rows in the kernel beside those that the members make: what counts as a difference, and who is in it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from agent.control.simulation import Cluster
from agent.control.table_diff import diff
from agent.control.table_diff import rows as kernel_rows
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.forwarding.row_array import RowArray, chains_of
from agent.model import Member, Share, State
from agent.node.candidates import candidates
from agent.table import algorithm
from agent.table.claims import FIRST, PLACES
from agent.table.epoch import Epoch
from agent.table.node_rows import MAX_SHOWN

EPOCH = Epoch(5, 1, 1024, 3, b"")
NODES = [IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13, 14)]
INDEXES = {address: number for number, address in enumerate(NODES, 40)}
KEY = "192.0.2.10:443/tcp"
MEMBERS = [Member(address, (5,), {KEY: Share(100, 100, State.UP)}, False, 0.0, "") for address in NODES]
CLUSTER = Cluster(NODES[0], {"web": (KEY, "rendezvous")}, MEMBERS, EPOCH, None)
Change = Callable[[RowArray], None]


def written() -> RowArray:
    """The rows as the agent writes them."""
    table = algorithm.build(1, "rendezvous", candidates(KEY, MEMBERS), EPOCH.rows, EPOCH.chain)
    return chains_of(table, [INDEXES[address] for address in table.members])


def diffed(change: Change = lambda rows: None, cluster: Cluster = CLUSTER, **query: str) -> Any:
    rows = np.tile(written(), (2, 1))  # the kernel has more rows than this epoch
    change(rows)
    writer = SimpleNamespace(kernel_rows=lambda name, epoch: rows, nodes=SimpleNamespace(indexes=INDEXES))
    return json.loads(asyncio.run(diff(cluster, cast(MapWriter, writer), query)).body)


def answer(rows: RowArray) -> dict[str, Any]:
    """What GET /table/rows answers for the service of a node with these rows in its kernel."""
    writer = SimpleNamespace(kernel_rows=lambda name, epoch: rows, nodes=SimpleNamespace(indexes=INDEXES))
    found: dict[str, Any] = json.loads(
        asyncio.run(kernel_rows(CLUSTER, cast(MapWriter, writer), {"service": "web"})).body
    )
    return found


def test_the_rows_in_the_kernel_name_nodes_in_place_of_indexes() -> None:
    found = answer(np.tile(written(), (2, 1)))
    assert {name: found[name] for name in ("node", "epoch", "name", "key", "chain")} == {
        "node": "10.0.0.11", "epoch": 5, "name": "web", "key": KEY, "chain": 3,
    }  # fmt: skip
    assert found["nodes"] == [str(node) for node in NODES]
    assert len(found["rows"]) == EPOCH.rows
    names = [[found["nodes"].index(str(NODES[index - 40])) for index in row[:3]] for row in written().tolist()]
    assert found["rows"] == names
    assert json.loads(asyncio.run(kernel_rows(CLUSTER, cast(MapWriter, object()), {})).body) == {"services": ["web"]}
    for query, problem in (({"service": "x"}, "x is not a service of this node with rows"), ({}, "no data path")):
        with pytest.raises(AgentError, match=problem):
            asyncio.run(kernel_rows(CLUSTER, cast(MapWriter, object()) if query else None, query))


def test_an_index_without_a_node_is_shown_by_its_number() -> None:
    rows = written()
    rows[1, 0] = 777
    assert "0.0.3.9" in answer(rows)["nodes"]


def test_rows_that_were_written_from_the_members_are_equal() -> None:
    found = diffed()
    assert (found["equal"], found["epoch"]) == (True, 5)
    assert found["services"] == [{"name": "web", "rows": 1024, "differing": 0, "owners_differing": 0, "shown": []}]


def test_a_row_with_another_owner_and_one_with_another_second_place() -> None:
    owners = written()[[3, 700]]

    def change(rows: RowArray) -> None:
        rows[3, [0, 1]] = rows[3, [1, 0]]
        rows[700, 1] = 0

    (web,) = diffed(change)["services"]
    assert (web["differing"], web["owners_differing"]) == (2, 1)
    three, seven_hundred = web["shown"]
    names = [str(NODES[index - 40]) for index in owners[0][:3]]
    assert three == {"row": 3, "kernel": [names[1], names[0], names[2]], "computed": names}
    assert seven_hundred["row"] == 700
    assert len(seven_hundred["kernel"]) == 2


def test_members_that_have_changed_since() -> None:
    fewer = replace(CLUSTER, members=MEMBERS[:3])
    (web,) = diffed(cluster=fewer)["services"]
    assert 150 < web["owners_differing"] < 350, "the rows of one of four"
    assert len(web["shown"]) == MAX_SHOWN
    new = replace(CLUSTER, members=[*MEMBERS, replace(MEMBERS[0], address=IPv4Address("10.0.0.15"))])
    shown = diffed(cluster=new)["services"][0]["shown"]
    assert any("a member without an entry" in row["computed"] for row in shown)


def test_claimants_are_no_difference_and_in_a_full_row_they_have_the_last_places() -> None:
    def claimed(rows: RowArray) -> None:
        rows[9, EPOCH.chain] = 99

    def full(rows: RowArray) -> None:
        rows[9, FIRST:PLACES] = range(90, 90 + PLACES - FIRST)

    def full_with_another_owner(rows: RowArray) -> None:
        full(rows)
        rows[9, [0, 1]] = rows[9, [1, 0]]

    assert diffed(claimed)["equal"]
    assert diffed(full)["equal"]
    assert diffed(full_with_another_owner)["services"][0]["differing"] == 1


def test_rows_beyond_those_of_the_epoch_do_not_count() -> None:
    def change(rows: RowArray) -> None:
        rows[EPOCH.rows :] = 0

    assert diffed(change)["equal"]


def test_without_rows_or_a_service() -> None:
    with pytest.raises(AgentError, match="x is not a service of this node with rows; it has web"):
        diffed(service="x")
    with pytest.raises(AgentError, match="this node has no data path"):
        asyncio.run(diff(CLUSTER, None, {}))
    writer = SimpleNamespace(kernel_rows=lambda name, epoch: None, nodes=SimpleNamespace(indexes=INDEXES))
    with pytest.raises(AgentError, match="web has no rows of epoch 0x5 in the kernel yet"):
        asyncio.run(diff(CLUSTER, cast(MapWriter, writer), {}))
