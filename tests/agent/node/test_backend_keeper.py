# SPDX-License-Identifier: Apache-2.0
"""The backends on one node: what other nodes publish, what new sessions get, and orders of operators."""

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest
from support.nat_config import TEXT, nat_config
from support.session_slots import Slots

from agent.channel.nat_state import BackendOrder, NatState
from agent.config.schema import Config
from agent.errors import AgentError
from agent.health.rise_fall import Health
from agent.model import NAT_KEY, Member, Share, State
from agent.nat.backend import BackendKey, backends_of
from agent.node.backend_keeper import COUNT_S, BackendKeeper
from agent.node.plan import ThisNode
from bpf.layout.session import TICK_SHIFT, SessionState, Tag, TagFlag

OWN, B, C = (IPv4Address(f"10.0.0.{n}") for n in (11, 12, 13))
CONFIG = nat_config()
ONE, TWO = (key for key in backends_of(CONFIG) if key.service == CONFIG.services[0].key)
FULL = Share(100, 100, State.UP, announced=False)
DRAINING = Share(100, 0, State.DRAINING, announced=False)


class Node:
    """A node's backends, and all that they get from others."""

    def __init__(self, config: Config = CONFIG, orders: Mapping[int, BackendOrder] | None = None) -> None:
        self.health = {service.name: Health.unknown(0.0) for service in config.services}
        self.states: dict[IPv4Address, Any] = {}
        self.active: dict[BackendKey, int] = {}
        self.wanted: Mapping[str, frozenset[BackendKey]] = {}
        self.published: list[tuple[Mapping[int, bool], Mapping[int, BackendOrder]]] = []
        self.own: NatState | None = NatState(100, 100, State.UP)
        self.membership = SimpleNamespace(
            view=SimpleNamespace(members=()),
            present_states=lambda: self.states,
            publish_backends=lambda *what: self.published.append(what),
        )
        self.unreached: set[BackendKey] = set()
        writer = SimpleNamespace(
            usable={}, active=lambda key: self.active.get(key, 0), reaches=lambda key: key not in self.unreached
        )
        self.slots = {"web": 1, "dns": 2}
        map_writer = SimpleNamespace(slot=self.slots.__getitem__)
        forwarder = SimpleNamespace(want_backends=self._want, map_writer=map_writer)
        self.changes = 0
        made: Any = (ThisNode(config, OWN, None, None, (1,)), writer, forwarder, self)
        self.keeper = BackendKeeper(*made, None, orders or {}, self.health, self._count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.membership, name)

    @property
    def own_nat(self) -> NatState | None:
        return self.own

    def _want(self, usable: Mapping[str, frozenset[BackendKey]]) -> None:
        self.wanted = usable

    def _count(self) -> None:
        self.changes += 1

    def receive(
        self, node: IPv4Address, results: Mapping[BackendKey, bool], share: Share = FULL, **orders: BackendOrder
    ) -> None:
        """Have a node publish results, and orders by `one` and `two`."""
        numbers = {"one": ONE.number, "two": TWO.number}
        nat = NatState(
            share.weight,
            share.effective,
            share.state,
            {key.number: good for key, good in results.items()},
            {numbers[name]: order for name, order in orders.items()},
        )
        self.states[node] = SimpleNamespace(nat=nat)
        others = tuple(one for one in self.membership.view.members if one.address != node)
        self.membership.view.members = (*others, Member(node, (1,), {NAT_KEY: share}, False, 0.0, ""))

    def see(self, now: float) -> None:
        self.keeper.observe(now)


@pytest.fixture
def node() -> Node:
    made = Node()
    made.see(0.0)
    return made


def all_but(*down: BackendKey) -> dict[BackendKey, bool]:
    return {key: key not in down for key in backends_of(CONFIG)}


def test_new_sessions_get_the_backends_that_answer(node: Node) -> None:
    assert not node.health["web"].healthy
    node.receive(B, all_but(ONE))
    node.see(1.0)
    assert node.wanted["web"] == {TWO}
    assert node.health["web"] == Health(True, 0, 1.0, "1 of 2 backends answer")
    (line,) = node.keeper.problems()
    assert line.startswith(f"service web: backend {ONE} is down: does not answer 1 of 1 nodes; see its server")
    assert node.changes
    node.receive(B, all_but(ONE, TWO))
    node.see(1.5)
    (line,) = node.keeper.problems()
    assert line.startswith(f"service web: 2 backends are down, the first is {ONE}: does not answer 1 of 1 nodes; see")
    node.receive(B, all_but(ONE))
    node.see(1.6)
    node.receive(B, all_but())
    node.see(2.0)
    assert node.wanted["web"] == {ONE, TWO}
    assert node.health["web"] == Health(True, 0, 1.6, "2 of 2 backends answer")
    assert node.keeper.problems() == []
    assert [len(node.wanted[name]) for name in ("web", "dns")] == [2, 1], "one of dns has no weight"


def test_without_any_that_answers_the_service_fails_open_or_not() -> None:
    for when, expected in (("fail_open", {ONE, TWO}), ("withdraw", set())):
        node = Node(nat_config(TEXT.replace("mode: nat\n", f"mode: nat\n    when_unhealthy: {when}\n", 1)))
        node.receive(B, all_but(ONE, TWO))
        node.see(1.0)
        assert node.wanted["web"] == expected
        assert not node.health["web"].healthy
        assert node.health["web"].why == "0 of 2 backends answer"


def test_backend_without_a_next_hop_here_is_for_other_nodes(node: Node) -> None:
    """As one on this node itself is: its check succeeds, and the program cannot send to it."""
    node.receive(B, all_but())
    node.unreached.add(ONE)
    node.see(1.0)
    assert node.wanted["web"] == {TWO}


def test_results_of_a_node_whose_agent_is_silent_do_not_count(node: Node) -> None:
    node.receive(B, all_but(ONE))
    node.see(1.0)
    node.receive(B, all_but(), DRAINING)
    node.receive(C, all_but(TWO))
    node.see(2.0)
    assert node.wanted["web"] == {ONE}


def test_drained_backend_gets_no_new_sessions_and_is_published_with_its_count(node: Node) -> None:
    node.receive(B, all_but())
    node.active[ONE] = 7
    node.see(1.0)
    node.keeper.set_drained("web", str(ONE), drained=True)
    assert node.wanted["web"] == {TWO}
    assert node.published[-1][1] == {ONE.number: BackendOrder(1, True, 7)}
    node.receive(B, all_but(), one=BackendOrder(1, True, 3))
    node.receive(C, all_but(), one=BackendOrder(1, True, 2))
    node.active[ONE] = 6
    node.see(node.keeper._counted_at + COUNT_S)
    assert node.published[-1][1] == {ONE.number: BackendOrder(1, True, 6)}
    status = {one["address"]: one for one in node.keeper.status("web")}
    assert (status[str(ONE)]["drained"], status[str(ONE)]["sessions"], status[str(ONE)]["elsewhere"]) == (True, 6, 5)
    assert (status[str(TWO)]["drained"], status[str(TWO)]["elsewhere"]) == (False, None)
    assert node.health["web"].why == "1 of 1 backends answer"


def test_order_of_another_node_holds_here_and_can_be_taken_back_here(node: Node) -> None:
    node.receive(B, all_but(), one=BackendOrder(4, True), two=BackendOrder(1, True))
    node.see(1.0)
    assert node.wanted["web"] == set()
    assert node.health["web"].why == "no backend may take new sessions"
    node.keeper.set_drained("web", str(ONE), drained=False)
    assert node.wanted["web"] == {ONE}
    assert node.published[-1][1] == {ONE.number: BackendOrder(5, False), TWO.number: BackendOrder(1, True)}
    assert Node(orders=node.keeper.orders).keeper.is_drained(TWO), "an agent that follows knows it"


@pytest.mark.parametrize(
    ("service", "backend", "text"),
    [
        ("dsr", str(ONE), "dsr is no service of mode nat; those are: web, dns"),
        ("web", "10.9.0.99:1", "10.9.0.99:1 is no backend of web; it has 10.9.0.11:8443, 10.9.0.12:8443"),
    ],
)
def test_order_for_what_is_not_there_is_refused(node: Node, service: str, backend: str, text: str) -> None:
    with pytest.raises(AgentError, match=text):
        node.keeper.set_drained(service, backend, drained=True)


def test_node_without_nat_gives_no_orders(node: Node) -> None:
    node.own = None
    with pytest.raises(AgentError, match="this node does no NAT"):
        node.keeper.set_drained("web", str(ONE), drained=True)


DOWN_AT = 100.0
BEFORE, AFTER = (int(at * 1e9) >> TICK_SHIFT for at in (DOWN_AT - 2, DOWN_AT + 2))


@pytest.mark.parametrize(
    ("config", "down", "left"),
    [
        (TEXT, (ONE,), {20, 30, 40, 50}),
        (TEXT, (), {10, 20, 30, 40, 50}),
        (TEXT, (ONE, TWO), {30, 40, 50}),
        (TEXT.replace("mode: nat\n", "mode: nat\n    on_down: keep\n", 1), (ONE,), {10, 20, 30, 40, 50}),
    ],
)
def test_sessions_that_a_backend_had_when_it_went_down_are_reset(config: str, down: Any, left: set[int]) -> None:
    node, slots = Node(nat_config(config)), Slots()
    one, two = ({"backend": key.address, "backend_port": key.port} for key in (ONE, TWO))
    slots.put(10, service_slot=1, created=BEFORE, **one)
    slots.put(20, service_slot=1, created=BEFORE, **two)
    slots.put(30, service_slot=2, created=BEFORE, **one)
    slots.put(40, SessionState.CLOSED, service_slot=1, created=BEFORE, **one)
    slots.put(50, service_slot=1, created=AFTER, **one)  # the service fails open, or its node reaches the backend
    node.active = {ONE: 2, TWO: 1}
    node.receive(B, all_but())
    node.see(1.0)
    node.receive(B, all_but(*down))
    node.see(DOWN_AT)
    asyncio.run(node.keeper._reset(slots.table))
    tags = {slot: Tag.unpack(int(slots.table.tags[slot])) for slot in (10, 20, 30, 40, 50)}
    reset = {slot for slot, tag in tags.items() if tag.flags & TagFlag.RESET}
    assert tags.keys() - reset == left
    assert all(tags[slot].state is SessionState.CLOSED for slot in reset)
