# SPDX-License-Identifier: Apache-2.0
"""Many nodes' views, fed by routers that delay, reorder and lose: once changes stop, all views and tables are equal.

    node ──session── router 1 ──session── node          each session: in order, each message delayed by its own time,
      └────session── router 2 ──session───┘              and lost with the session when that is reset

The simulation keeps BGP's promises and no more: updates of one session arrive in order, those of different sessions in
any; an update may replace earlier ones of the same node; what is in flight when a session ends is lost, and the router
withdraws what it learned by that session. Nodes change, crash, return (with their saved members, or reinstalled with a
clock that was set back), and leave; routers go down and up, one for good; direct probes are lost.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from agent.membership.peer_table import REFRESH_S, Advertisement, PeerReport
from agent.membership.view import LOST_KEPT_S, REPLY_WAIT_S, View
from agent.model import Member, Share, State
from agent.node.candidates import candidates
from agent.table.rendezvous import build

SERVICE, ROWS, CHAIN = 5, 4096, 4
SEEDS = [seed if seed < 3 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(60)]


class Address(IPv4Address):
    """With a hash that is not made from a string each time: a third of the whole run."""

    def __hash__(self) -> int:
        return hash(int(self))


@dataclass
class Session:
    """The session of one node with one router."""

    up: bool = False
    since: float = 0.0
    eor: bool = False
    to_router: deque[tuple[float, Advertisement]] = field(default_factory=deque)
    to_node: deque[tuple[float, IPv4Address | None, Advertisement | None]] = field(default_factory=deque)
    """(arrival, node, its identity or None: withdrawn); no node: End-of-RIB."""
    learned: dict[IPv4Address, Advertisement] = field(default_factory=dict)
    """The node's adj-rib-in."""


@dataclass
class Node:
    address: IPv4Address
    identity: Advertisement
    view: View = field(default_factory=View)
    alive: bool = True
    since: float = 0.0
    """When it last started or crashed."""
    reports: dict[str, PeerReport] = field(default_factory=dict)
    """The latest reports of its peers."""
    withdrawn: dict[IPv4Address, float] = field(default_factory=dict)
    """The nodes that a live session withdrew and none has advertised since, with the time."""
    confirmed: dict[IPv4Address, Member] = field(default_factory=dict)
    """The members that were advertised when a session was last up, as in the view then."""


class Fabric:
    """All nodes and routers, and their sessions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        addresses = [Address(f"10.0.0.{11 + i}") for i in range(self.random.randint(5, 12))]
        self.nodes = {
            a: Node(a, Advertisement(a, 1, {SERVICE: Share(100, 100, State.UP)}, version=1000)) for a in addresses
        }
        self.routers = [f"router {i}" for i in range(self.random.randint(1, 3))]
        self.down: set[str] = set()
        self.ribs: dict[str, dict[IPv4Address, Advertisement]] = {router: {} for router in self.routers}
        self.sessions = {(router, a): Session() for router in self.routers for a in addresses}
        self.connect_all()

    # BGP

    def arrival(self, queue: deque) -> float:
        """Return when the next message of a session arrives: never before the last."""
        return max(self.now + self.random.expovariate(2.0), queue[-1][0] if queue else 0.0)

    def connect(self, router: str, address: IPv4Address) -> None:
        session, node = self.sessions[router, address], self.nodes[address]
        if session.up or router in self.down or not node.alive:
            return
        session.up, session.since, session.eor = True, self.now, False
        session.to_router.append((self.arrival(session.to_router), node.identity))
        for identity in self.ribs[router].values():
            session.to_node.append((self.arrival(session.to_node), identity.address, identity))
        session.to_node.append((self.arrival(session.to_node), None, None))

    def disconnect(self, router: str, address: IPv4Address) -> None:
        session = self.sessions[router, address]
        if session.up:
            self.sessions[router, address] = Session()
            if self.ribs[router].pop(address, None):
                self.propagate(router, address, None)

    def propagate(self, router: str, address: IPv4Address, identity: Advertisement | None) -> None:
        for other in self.nodes:
            session = self.sessions[router, other]
            if other != address and session.up:
                if self.random.random() < 0.5:  # an update that still waits is replaced by the next
                    waiting = [one for one in session.to_node if one[1] != address]
                    session.to_node = deque(waiting)
                session.to_node.append((self.arrival(session.to_node), address, identity))

    def deliver(self) -> None:
        for (router, address), session in self.sessions.items():
            while session.to_router and session.to_router[0][0] <= self.now:
                identity = session.to_router.popleft()[1]
                self.ribs[router][address] = identity
                self.propagate(router, address, identity)
        for session in self.sessions.values():
            while session.to_node and session.to_node[0][0] <= self.now:
                _, address, identity = session.to_node.popleft()
                if address is None:
                    session.eor = True
                elif identity is None:
                    session.learned.pop(address, None)
                else:
                    session.learned[address] = identity

    # Events

    def announce(self, node: Node, share: Share, version: int) -> None:
        node.identity = Advertisement(node.address, 1, {SERVICE: share}, version=version)
        for router in self.routers:
            session = self.sessions[router, node.address]
            if session.up:
                session.to_router.append((self.arrival(session.to_router), node.identity))

    def change(self) -> None:
        node = self.random.choice(list(self.nodes.values()))
        if node.alive:
            state = self.random.choices([State.UP, State.DRAINING, State.LEFT], [8, 3, 1])[0]
            nominal = self.random.choice([50, 100, 200])
            effective = self.random.choice([0, nominal]) if state is State.UP else 0
            self.announce(node, Share(nominal, effective, state), node.identity.version + 2)

    def crash(self) -> None:
        node = self.random.choice(list(self.nodes.values()))
        node.alive, node.since = False, self.now
        for router in self.routers:
            self.disconnect(router, node.address)

    def restart(self) -> None:
        for node in self.nodes.values():
            if not node.alive and self.random.random() < 0.7:
                node.alive, node.since = True, self.now
                node.reports, node.withdrawn, node.confirmed = {}, {}, {}
                saved = self.random.random() < 0.5
                node.view = View(node.view.members if saved else ())
                version = node.identity.version + 2 if saved else self.random.randint(1, 2000)
                self.announce(node, Share(100, 100, State.UP), version)

    def reset(self) -> None:
        self.disconnect(self.random.choice(self.routers), self.random.choice(list(self.nodes)))

    def reset_most(self) -> None:
        router = self.random.choice(self.routers)
        for address in self.nodes:
            if self.random.random() < 0.7:
                self.disconnect(router, address)

    def toggle_router(self) -> None:
        router = self.random.choice(self.routers)
        if router in self.down:
            self.down.remove(router)
        else:
            self.down.add(router)
            for address in self.nodes:
                self.disconnect(router, address)
            self.ribs[router] = {}

    def connect_all(self, chance: float = 1.0) -> None:
        for router, address in self.sessions:
            if self.random.random() < chance:
                self.connect(router, address)

    def step(self, seconds: float) -> None:
        """Let time pass; every node updates its view and sends its probes."""
        self.now += seconds
        self.deliver()
        for node in self.nodes.values():
            if not node.alive:
                continue
            reports = {}
            for router in self.routers:
                session = self.sessions[router, node.address]
                reports[router] = PeerReport(session.up, dict(session.learned), session.since, session.eor)
            node.view.observe(reports, self.now)
            self.check(node, reports)
            for probed in node.view.take_due_probes(self.now):
                if self.nodes[probed].alive and self.random.random() < 0.8:
                    version = self.nodes[probed].identity.version
                    node.view.receive_reply(probed, version, self.now)
                    member = next(m for m in node.view.members if m.address == probed)
                    assert "but it replies" not in member.why or member.version == version, "kept under its version"

    def check(self, node: Node, reports: dict[str, PeerReport]) -> None:
        """Assert what holds at any time, however much the views differ."""
        seen = {member.address: member for member in node.view.members}
        live = [report for report in reports.values() if report.up]
        newest = {
            a: max(r.advertisements[a].version for r in live if a in r.advertisements)
            for report in live
            for a in report.advertisements
        }
        for router, report in reports.items():
            before = node.reports.get(router)
            if before and before.up and report.up and before.since == report.since:
                for address in before.advertisements.keys() - newest.keys():
                    node.withdrawn.setdefault(address, self.now)
        node.reports = reports
        for address, version in newest.items():
            assert seen[address].version == version, "of several live sessions the newest identity is best"
            node.withdrawn.pop(address, None)
        for address, since in node.withdrawn.items():
            other = self.nodes[address]
            if not other.alive and self.now >= max(since, other.since) + REPLY_WAIT_S and address in seen:
                assert seen[address].lost, "a live session withdrew it, and it cannot reply"
        if live:
            node.confirmed = {address: seen[address] for address in newest}
        for address, member in node.confirmed.items():
            assert seen[address].version == member.version, "no session, no change"
            assert member.lost or not seen[address].lost, "loss of information is not loss of a member"


def run(seed: int) -> Fabric:
    """Run a quarter of an hour of faults, then rest for as long as the rules may take."""
    fabric = Fabric(seed)
    events = [fabric.change, fabric.crash, fabric.restart, fabric.reset, fabric.reset_most, fabric.toggle_router]
    for _ in range(150):
        for event in fabric.random.choices(events, [8, 1, 3, 3, 1, 1], k=fabric.random.randint(0, 3)):
            event()
        fabric.connect_all(0.4)
        fabric.step(fabric.random.choice([0.2, 1.0, 3.0, 20.0]))
    # One router may stay down for good, if there is another.
    fabric.down = set(fabric.random.sample(sorted(fabric.down), k=min(len(fabric.down), 1, len(fabric.routers) - 1)))
    fabric.connect_all()
    for _ in range(30):
        fabric.step(1.0)
    for _ in range(int((REFRESH_S + LOST_KEPT_S) / 10) + 20):
        fabric.step(10.0)
    return fabric


def whole_view(fabric: Fabric, node: Node) -> list[Member]:
    """Return a node's view, itself included, without what differs by node (since when, and why)."""
    own = Member(node.address, 1, node.identity.shares, False, 0.0, "", version=node.identity.version)
    seen = [
        Member(m.address, m.epoch, m.shares, m.lost, 0.0, "", m.address6, m.version, m.epochs)
        for m in node.view.members
    ]
    return sorted([own, *seen], key=lambda member: member.address)


@pytest.mark.parametrize("seed", SEEDS)
def test_once_changes_stop_all_views_are_equal_and_true_and_all_tables_equal(seed: int) -> None:
    fabric = run(seed)
    alive = [node for node in fabric.nodes.values() if node.alive]
    truth = [Member(n.address, 1, n.identity.shares, False, 0.0, "", version=n.identity.version) for n in alive]
    tables = set()
    for node in alive:
        view = whole_view(fabric, node)
        assert view == truth
        tables.add(build(candidates(SERVICE, view), ROWS, CHAIN).digest)
    assert len(tables) <= 1


def test_views_differ_during_the_faults() -> None:
    """The control: meanwhile views differ, and members are lost, probed and kept."""
    states, differing = set(), 0
    for seed in range(10):
        fabric = Fabric(seed)
        for _ in range(60):
            fabric.change()
            fabric.reset_most()
            fabric.connect_all(0.4)
            fabric.step(1.0)
            views = [whole_view(fabric, node) for node in fabric.nodes.values()]
            differing += any(view != views[0] for view in views)
            states |= {member.why for node in fabric.nodes.values() for member in node.view.members}
    assert differing > 100
    for text in ("withdrawn", "but it replies", "does not reply", "received again", "flaps"):
        assert any(text in why for why in states), text
