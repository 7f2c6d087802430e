# SPDX-License-Identifier: Apache-2.0
"""The operator's requests: what they change, what they refuse, and which nodes announce a VIP."""

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.address import Address
from agent.announcing.order import Order, OrderKind
from agent.announcing.order_book import OrderBook
from agent.config.file import parse
from agent.errors import LastAnnouncerError
from agent.model import Announcement, Member, Method, Share, State
from agent.node.operator import Known, Operator, announcing_nodes
from agent.node.plan import OperatorState

A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))
VIP = IPv4Address("192.0.2.10")
CONFIG = parse(
    """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, weight: 50}
  - {name: alt, vip: 192.0.2.10, protocol: tcp, port: 80}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
""",
    "lb.yml",
)
WEB, OTHER = CONFIG.services[0].key, "192.0.2.11:53/udp"
DOWN = Order(VIP, OrderKind.DOWN, Method.WITHDRAW, "", 0.0)


def member(
    address: IPv4Address, state: State = State.UP, announced: bool = True, lost: bool = False, service: str = WEB
) -> Member:
    return Member(address, (1,), {service: Share(100, 100, state, announced)}, lost, 0.0, "")


@dataclass
class Node:
    """An operator's node, what it knows, and the changes that it must act on."""

    operator: Operator
    known: Known = field(default_factory=Known)
    changes: list[Collection[Address]] = field(default_factory=list)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    orders = OrderBook(tmp_path / "orders.json", CONFIG.vips)
    made = Node(Operator(CONFIG, OperatorState(), orders, lambda: made.known, lambda vips: made.changes.append(vips)))
    made.known = Known((), {VIP: Announcement(True, "healthy")})
    return made


def test_nodes_that_announce_a_vip() -> None:
    assert announcing_nodes([member(A), member(B, announced=False), member(C)], [WEB, OTHER]) == (A, C)
    assert announcing_nodes([member(A, lost=True), member(B, State.LEFT)], [WEB, OTHER]) == ()
    # A draining node keeps the VIP for its connections, and the routers still send it packets.
    assert announcing_nodes([member(A, State.DRAINING)], [WEB, OTHER]) == (A,)
    assert announcing_nodes([member(A)], [OTHER]) == ()


def test_last_announcer_refuses_to_withdraw(node: Node) -> None:
    operator = node.operator
    with pytest.raises(LastAnnouncerError, match=r"192.0.2.10: no other node .* --force"):
        operator.set_admin_state(State.DRAINING)
    with pytest.raises(LastAnnouncerError):
        operator.add_orders([DOWN])
    assert (operator.state, operator.orders.orders, node.changes) == (OperatorState(), frozenset(), [])
    operator.set_admin_state(State.DRAINING, force=True)
    operator.add_orders([DOWN], force=True)
    assert (operator.state.admin_state, operator.orders.orders) == (State.DRAINING, {DOWN})
    assert node.changes == [(), ()]


def test_with_another_announcer_nothing_is_refused(node: Node) -> None:
    node.known = Known((member(B),), node.known.announcements)
    assert node.operator.other_announcers(VIP) == (B,)
    node.operator.set_admin_state(State.LEFT)
    node.operator.add_orders([DOWN])


def test_what_withdraws_nothing_is_never_refused(node: Node) -> None:
    node.operator.set_admin_state(State.UP)
    node.operator.add_orders([Order(VIP, OrderKind.DRAIN, Method.PREPEND, "", 0.0)])
    node.known = Known((), {VIP: Announcement(False, "unhealthy")})
    node.operator.set_admin_state(State.DRAINING)
    assert node.operator.state.admin_state is State.DRAINING
    assert len(node.changes) == 3


def test_removing_an_order_ends_the_hold_down(node: Node) -> None:
    node.operator.add_orders([DOWN], force=True)
    node.operator.remove_orders([VIP], OrderKind.DOWN)
    assert node.operator.orders.orders == frozenset()
    assert node.changes == [(), [VIP]]


def test_backend_changes_are_added_up(node: Node) -> None:
    operator = node.operator
    operator.set_backend(["web"], drained=True)
    operator.set_backend(["alt"], drained=True, weights={"web": 20})
    assert operator.state == OperatorState(State.UP, frozenset({"web", "alt"}), {"web": 20})
    operator.set_backend(["web"], drained=False, weights={"web": 50, "alt": 1})
    assert operator.state == OperatorState(State.UP, frozenset({"alt"}), {"alt": 1}), "the nominal weight is no limit"
    assert len(node.changes) == 3
