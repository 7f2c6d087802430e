# SPDX-License-Identifier: Apache-2.0
"""Which claims count: those of a node's present boot, else what an earlier agent left in the kernel's rows."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from agent.channel.claim_log import NodeClaims
from agent.channel.state import ServiceEndpoint
from agent.connections.held import HeldRows
from agent.connections.monitor import Held
from agent.node.claim_keeper import FEW_ROWS, ClaimKeeper, pause_s
from agent.table.claims import Claims
from agent.table.epoch import Epoch
from agent.table.table import RowNumbers

OWN, A, B = (IPv4Address(f"10.0.0.{n}") for n in (11, 12, 13))
WEB = ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443)
EPOCH = Epoch(7, 1, 4096, 4, bytes(16))


def rows(*numbers: int) -> RowNumbers:
    return np.array(numbers, np.uint32)


class Node:
    """A keeper, and what it reads and calls."""

    def __init__(self, kept: Claims | None = None, boots: Mapping[IPv4Address, int] = {A: 1, B: 1}) -> None:
        self.merged: dict[str, dict[int, dict[IPv4Address, list[int]]]] = {}
        self.changes = 0
        self.published: list[NodeClaims] = []
        self.refuse = False
        self.claims: dict[IPv4Address, NodeClaims] = {}
        self.view = SimpleNamespace(members=())
        self.boot(boots)
        web = SimpleNamespace(name="web", mode="dsr", protocol="tcp", vip=WEB.vip, port_number=443, key=str(WEB))
        dns = SimpleNamespace(name="dns", mode="dsr", protocol="udp", vip=WEB.vip, port_number=53, key="dns")
        self.writer = SimpleNamespace(
            claims_in_rows=lambda: {"web": {7: kept or {}}, "dns": {}},
            claims_of=lambda service, epoch, held: held,
            full_rows=lambda: {"web": 3} if self.full else {},
            nearly_full_rows=lambda: self.nearly_full,
            chains_revision=0,
        )
        self.full = False
        self.nearly_full: dict[str, int] = {}
        membership = SimpleNamespace(own=OWN, boot=9, view=self.view, claims=self.claims, publish_claims=self._publish)
        config = SimpleNamespace(services=(web, dns))
        self.connections = SimpleNamespace(held=None, request=self._request)
        self.requests = 0
        self.now = 0.0
        forwarder = SimpleNamespace(map_writer=self.writer, want_claims=self._want)
        parts = cast(Any, (self.connections, forwarder, membership))
        self.keeper = ClaimKeeper(cast(Any, config), (EPOCH,), *parts)

    def _request(self) -> None:
        self.requests += 1

    def boot(self, boots: Mapping[IPv4Address, int]) -> None:
        self.view.members = tuple(SimpleNamespace(address=a, boot=boot) for a, boot in boots.items())

    def _publish(self, claims: NodeClaims) -> None:
        if self.refuse:
            raise ValueError("too many")
        self.published.append(claims)

    def _want(self, merged: Mapping[str, Mapping[int, Claims]]) -> None:
        self.changes += 1
        self.merged = {
            name: {epoch: {a: r.tolist() for a, r in claims.items()} for epoch, claims in epochs.items()}
            for name, epochs in merged.items()
        }

    def merge(self) -> dict[IPv4Address, list[int]]:
        self.keeper._merge()
        return self.merged.get("web", {}).get(7, {})

    def hold(self, *numbers: int) -> None:
        """Have connections counted in these rows."""
        rows_held = {7: HeldRows(rows(*numbers), rows(*numbers))}
        self.connections.held = Held({str(WEB): rows_held, "dns": rows_held} if numbers else {}, {}, 1.0, 0.0)
        self.now += 2.0
        self.keeper._step(self.now)


def test_the_kernel_s_rows_count_until_a_node_has_spoken() -> None:
    node = Node({OWN: rows(1), A: rows(2), B: rows(3)})
    assert node.merge() == {OWN: [1], A: [2], B: [3]}
    node.claims[A] = NodeClaims(1, {(WEB, 7): rows(4)})
    assert node.merge() == {OWN: [1], A: [4], B: [3]}
    node.hold()
    node.hold()
    assert node.merge() == {A: [4], B: [3]}
    assert {claims.boot for claims in node.published} == {9}


def test_what_an_earlier_agent_claimed_outlasts_one_count_without_connections() -> None:
    node = Node({OWN: rows(1, 2)})
    claimed = []
    for held in ((2, 3), (3,), ()):
        node.hold(*held)
        claimed.append(node.merge().get(OWN, []))
    assert claimed == [[1, 2, 3], [2, 3], [3]]


def test_claims_of_another_boot_are_void() -> None:
    node = Node({A: rows(2), B: rows(3)})
    node.boot({A: 1, B: 2})
    assert node.merge() == {A: [2]}
    node.claims[A] = NodeClaims(5, {(WEB, 7): rows(4)})
    assert node.merge() == {A: [2]}, "its view has not come so far"
    node.boot({A: 5})
    assert node.merge() == {A: [4]}
    node.boot({})
    assert node.merge() == {}


def test_what_a_node_holds_it_claims_in_its_own_rows_and_to_the_others() -> None:
    node = Node()
    node.hold(5, 6)
    assert node.merge() == {OWN: [5, 6]}
    assert set(node.merged) == {"web"}, "UDP needs no claims"
    assert node.published[-1].rows[WEB, 7].tolist() == [5, 6]
    assert (node.keeper.given, node.keeper.taken()) == (2, {})
    changes = node.changes
    node.hold(5, 6)
    node.merge()
    assert node.changes == changes, "nothing is written again"
    node.claims[B] = NodeClaims(1, {(WEB, 7): rows(5), (WEB, 8): rows(1)})
    node.merge()
    assert node.keeper.taken() == {B: 1}, "epochs that this node does not know have no rows"


def test_connections_are_counted_when_chains_change_and_once_more() -> None:
    node = Node()
    times = {}
    for second in range(40):
        node.writer.chains_revision = 1 if second < 10 else 2
        node.keeper._step(float(second))
        times.setdefault(node.requests, second)
    assert times == {1: 0, 2: 5, 3: 10, 4: 15}


def test_what_is_costly_is_done_more_rarely() -> None:
    assert [pause_s(cost) for cost in (0.0, 0.01, 0.1, 0.3, 60.0)] == pytest.approx([1.0, 1.0, 2.0, 6.0, 8.0])


def test_sets_are_looked_at_only_if_they_are_others_or_count_differently() -> None:
    """With 1,000 nodes and 50 services all sets take 70 ms, in which the event loop waits."""

    class Watched(dict[tuple[ServiceEndpoint, int], RowNumbers]):
        looks = 0

        def get(self, *key: Any) -> Any:
            Watched.looks += 1
            return super().get(*key)

    node = Node({B: rows(3)})
    node.claims[A] = NodeClaims(1, Watched({(WEB, 7): rows(4)}))
    assert node.merge() == {A: [4], B: [3]}
    assert node.merge() == {A: [4], B: [3]}
    assert Watched.looks == 1
    node.boot({A: 1, B: 2})
    assert node.merge() == {A: [4]}
    node.claims[A] = NodeClaims(1, Watched({(WEB, 7): rows(5)}))
    assert node.merge() == {A: [5]}
    assert Watched.looks == 2


def test_rows_that_are_full_and_claims_that_are_too_many_are_named() -> None:
    node = Node()
    node.refuse = True
    node.hold(5, 6)
    assert "cannot send its claims" in node.keeper.problems()[0]
    assert node.merge() == {OWN: [5, 6]}
    node.refuse = False
    node.hold(5, 6)
    assert node.keeper.problems() == ()
    node.full = True
    assert node.keeper.problems()[0].startswith("rows of web name 8 nodes")


def test_rows_with_one_place_left_are_no_problem_and_shown_if_they_are_more_than_a_few() -> None:
    node = Node()
    node.nearly_full = {"web": FEW_ROWS + 1, "mail": FEW_ROWS}
    assert node.keeper.nearly_full_rows == {"web": FEW_ROWS + 1}
    assert node.keeper.problems() == ()
