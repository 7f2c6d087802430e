# SPDX-License-Identifier: Apache-2.0
"""A cluster in virtual time, made of the project's own code: askers, channels, views, tables, the next-hop rule.

    router ──── node ──── node        `cut` has the pairs that do not reach each other; datagrams take time, and some
       └──────── node ──────┘         are lost; BGP withdraws an identity some time after its node is gone

What is modeled is only what is not the project's: the network, the routers, the kernel's sockets. A connection stands
for all flows of its row that its owner took. At each change, and when a deadline of grace or of silence passes, a
packet of each connection enters at each node that the router reaches, and is walked to its end. A reset breaks the
connection, if its owner lives. A connection whose owner is in no live node's chain is forgotten: that is counted apart.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from support.cluster_node import ROWS, Chain, Node, chains_of
from support.packet_walks import DROP_S, PacketWalks

from agent.address import NodeAddress
from agent.channel.channel import Channel
from agent.channel.event import Notice
from agent.channel.message import FIRST_NOTICE
from agent.channel.state import NodeState, ServiceEndpoint, StateShare, pack_addresses, unpack_addresses
from agent.forwarding.grace import GRACE_S
from agent.liveness.asker import Asker
from agent.liveness.question import Question
from agent.membership.observations import Observations
from agent.membership.received import Named
from agent.membership.view import View
from agent.model import Candidate, Member, Share, State, without_new_flows
from agent.node.candidates import candidates
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage

ROUTER = NodeAddress(IPv4Address("10.0.0.1"))
SERVICE = ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443)
CLUSTER, KEY = 7, bytes(16)
SUSPECTS = FIRST_NOTICE
RESETS = {Counter.DELIVER_CHAIN_END, Counter.DELIVER_ONLY_NODE, Counter.PASS_NO_MEMBER}


@dataclass(frozen=True)
class Rules:
    """What may be switched off, to see that the simulation notices."""

    echo: bool = True
    """Without it nodes are believed for as long as BGP names them, and are gone when it does not."""
    passed_over: bool = True
    """Without it silence removes a node from the tables at once, places and all."""


class ClusterModel:
    """All nodes, the network and the connections."""

    def __init__(self, size: int, seed: int, rules: Rules = Rules(), loss: float = 0.0) -> None:
        self.random, self.rules, self.loss = random.Random(seed), rules, loss
        self.now = 1000.0
        self.named = {NodeAddress(IPv4Address(f"10.0.0.{11 + i}")) for i in range(size)}
        """Those that BGP names."""
        self.nodes = {address: Node(address) for address in sorted(self.named)}
        self.cut: set[frozenset[IPv4Address]] = set()
        """Pairs that do not reach each other; the router may be one of them."""
        self.connections: dict[tuple[int, IPv4Address, int], int] = {}
        """By row, owner and the owner's boot: how many flows."""
        self.opened = self.broken = self.forgotten = 0
        self.resets: Tally[str] = Tally()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._deadlines: list[float] = []
        self._changed = False
        self._tables: dict[tuple[Candidate, ...], tuple[Chain, ...]] = {}
        self._walks = PacketWalks(self.nodes, self._reaches)
        for node in self.nodes.values():
            self._start_agent(node, ())
            self._observe(node)

    # Events of a story

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            agents = [node for node in self.nodes.values() if node.agent]
            due = min((node.due for node in agents), default=end)
            event = self._events[0][0] if self._events else end
            deadline = self._deadlines[0] if self._deadlines else end
            at = max(self.now, min(due, event, deadline))
            if at >= end:
                self.now = end
                return
            self.now = at
            if event <= at:
                heapq.heappop(self._events)[2]()
            elif due <= at:
                self._act(min(agents, key=lambda node: node.due))
            else:
                heapq.heappop(self._deadlines)
                self._changed = True
            if self._changed:
                self._changed = False
                self.check()

    def open(self, flows: int) -> None:
        """Open this many connections, spread over rows and nodes that the router reaches."""
        entries = self._entries()
        self._walks.begin(self.now)
        each = max(1, flows // (ROWS * len(entries)))
        for row, entry in itertools.product(range(ROWS), entries):
            event, owner = self._walks.walk(entry, row, None, opens=True)
            if owner is not None and event not in RESETS:
                key = row, owner.address, owner.boot
                self.connections[key] = self.connections.get(key, 0) + each
                self.opened += each

    def crash(self, address: IPv4Address, withdrawn_after: float | None = 0.1) -> None:
        """Take a node's power away. BGP withdraws its identity after that time (None: never)."""
        node = self.nodes[address]
        node.alive = node.agent = False
        self.connections = {key: n for key, n in self.connections.items() if key[1] != address}
        if withdrawn_after is not None:
            self.later(withdrawn_after, lambda: self.name(address, False))
        self._changed = True

    def boot(self, address: IPv4Address, named_after: float = 0.5) -> None:
        """Boot a node: new or gone before, with no memory."""
        before = self.nodes.get(address)
        node = Node(address, boot=before.boot + 1 if before else 1)
        self.nodes[address] = node
        self._start_agent(node, ())
        node.alive = False  # XDP comes with the first tables
        self.later(named_after, lambda: self.name(address, True))
        self._observe(node)

    def restart_agent(self, address: IPv4Address, down_s: float) -> None:
        """Kill a node's agent, and start it again after that time with the members that it saved."""
        node = self.nodes[address]
        node.agent = False

        def start() -> None:
            if node.alive and self.nodes[address] is node:
                node.agent = True
                self._start_agent(node, node.view.members)
                self._observe(node)

        self.later(down_s, start)

    def drain(self, address: IPv4Address, state: State = State.DRAINING) -> None:
        """Have a node publish another state."""
        node = self.nodes[address]
        node.state, node.version = state, node.version + 1
        self._observe(node)

    def cut_off(self, address: IPv4Address, others: Iterable[IPv4Address] | None = None) -> None:
        """Cut a node off from these others, by default from all and from the router."""
        others = [*self.nodes, ROUTER] if others is None else others
        self.cut |= {frozenset((address, other)) for other in others if other != address}
        self._changed = True

    def heal(self) -> None:
        """Mend all paths."""
        self.cut.clear()
        self._changed = True

    def name(self, address: IPv4Address, named: bool) -> None:
        """Have BGP name a node, or withdraw its identity, with all others at their own time."""
        (self.named.add if named else self.named.discard)(address)
        for other in self.nodes.values():
            if other.address != address:
                self.later(self.random.uniform(0.01, 0.3), lambda other=other: self._learn_of(other, address))
        if named:
            node = self.nodes[address]
            for other_address in self.named - {address}:
                self.later(self.random.uniform(0.01, 0.3), lambda a=other_address: self._learn_of(node, a))

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._serial), act))

    # The agents

    def _start_agent(self, node: Node, saved: tuple[Member, ...]) -> None:
        node.asker = Asker(node.address, random.Random(self.random.random()))
        node.channel = Channel(node.address, CLUSTER, [KEY], random.Random(self.random.random()))
        node.view, node.published = View(saved), None
        node.started_at = self.now
        node.named = {a: Named() for a in self.named if a != node.address}
        node.due = self.now

    def _learn_of(self, node: Node, address: IPv4Address) -> None:
        if not node.agent or node.address == address:
            return
        if address in self.named:
            node.named[address] = Named()
        elif node.named.pop(address, None):
            node.asker.hint(address, self.now)
        self._observe(node)

    def _act(self, node: Node) -> None:
        node.due = float("inf")
        for question in node.asker.step(self.now):
            self._ask(node, question)
        if suspects := node.asker.take_suspects():
            node.channel.notify(SUSPECTS, pack_addresses(suspects[:64]), self.now)
        self._observe(node)
        self._send(node)

    def _send(self, node: Node) -> None:
        for address, data in node.channel.step(self.now):
            self._transmit(node.address, address, lambda a=address, d=data: self._receive(a, node.address, d))
        node.due = max(self.now, min(node.asker.next_at, node.channel.next_at, node.view.next_at))

    def _transmit(self, source: IPv4Address, to: IPv4Address, arrive: Callable[[], None]) -> None:
        if self.random.random() < self.loss:
            return

        def deliver() -> None:
            if self._reaches(source, to):
                arrive()

        self.later(self.random.uniform(0.0001, 0.002), deliver)

    def _ask(self, node: Node, question: Question) -> None:
        to = question.address
        if not isinstance(to, IPv4Address):
            return

        def answer() -> None:
            asked = self.nodes.get(to)
            if asked is None or not asked.alive:
                return
            age = 0 if asked.agent else 20_000
            flags = EchoFlag.DATA_PATH | (EchoFlag.READY if asked.ready else EchoFlag(0))
            message = EchoMessage(
                EchoKind.ANSWER, CLUSTER, question.nonce, flags, age, asked.boot, (1,), encap=question.encap
            )
            self._transmit(to, node.address, lambda: self._answered(node, to, message))

        self._transmit(node.address, to, answer)

    def _answered(self, node: Node, address: IPv4Address, message: EchoMessage) -> None:
        if node.agent:
            before = node.asker.liveness
            node.asker.receive(address, message, self.now)
            for returned in node.asker.take_returned():
                node.channel.wake(returned, self.now)
            if node.asker.liveness is not before:
                self._observe(node)
            self._send(node)

    def _receive(self, to: IPv4Address, source: IPv4Address, data: bytes) -> None:
        node = self.nodes.get(to)
        if node is None or not node.agent:
            return
        for event in node.channel.receive(data, source, self.now):
            if isinstance(event, Notice):
                for suspect in unpack_addresses(event.payload):
                    node.asker.hint(suspect, self.now)
        self._observe(node)
        self._send(node)

    def _observe(self, node: Node) -> None:
        """Bring a node's view, published state and tables to what it receives."""
        known = node.named.keys() | {member.address for member in node.view.members}
        node.asker.follow(known, self.now)
        node.channel.follow(known, self.now)
        liveness = node.asker.liveness
        node.view.observe(Observations(node.named, True, liveness, node.channel.states), self.now)
        node.due = min(node.due, self.now)
        share = Share(100, 100 if node.state is State.UP else 0, node.state)
        self._publish(node, share if node.ready else without_new_flows(share))
        if not node.view.is_complete():
            return
        own = Member(node.address, (1,), {str(SERVICE): share}, False, 0.0, "")
        others = node.view.members
        if not self.rules.passed_over:
            others = tuple(one for one in others if one.silent_since is None)
        if not self.rules.echo:
            others = tuple(replace(one, silent_since=None, lost=False) for one in others if one.address in node.named)
        members = sorted((*others, own), key=lambda one: int(one.address))
        self._apply(node, candidates(str(SERVICE), members))
        silent = dict(node.view.silent) if self.rules.passed_over and self.rules.echo else {}
        doubted = dict(node.view.doubted) if self.rules.passed_over and self.rules.echo else {}
        if (silent, doubted) != (node.silent, node.doubted):
            node.silent, node.doubted, self._changed = silent, doubted, True
            self._deadlines += [since + DROP_S for since in (*silent.values(), *doubted.values())]
            heapq.heapify(self._deadlines)
        node.alive = True
        self._publish(node, share)

    def _publish(self, node: Node, share: Share) -> None:
        shares = {SERVICE: StateShare(share.weight, share.effective, share.state, announced=True)}
        state = NodeState(node.boot, node.version, "1", node.ready, (1,), shares, node.view.unreachable)
        if state != node.published:  # as node/own_state.py: the channel would encode it each time
            node.published = state
            node.channel.publish(state, self.now)

    def _apply(self, node: Node, found: tuple[Candidate, ...]) -> None:
        if found == node.candidates:
            return
        if found not in self._tables:
            self._tables[found] = chains_of(found)
        chains, first = self._tables[found], not node.candidates
        if not first:
            changed = [row for row in range(ROWS) if chains[row] != node.chains[row]]
            node.grace |= dict.fromkeys(changed, self.now + GRACE_S)
            heapq.heappush(self._deadlines, self.now + GRACE_S + 0.001)
        node.candidates, node.chains, self._changed = found, chains, True

    # Packets

    def _reaches(self, one: IPv4Address, other: IPv4Address) -> bool:
        return not self.cut or frozenset((one, other)) not in self.cut

    def _entries(self) -> list[Node]:
        """Return the nodes that the router sends packets to."""
        return [n for n in self.nodes.values() if n.alive and n.ready and self._reaches(ROUTER, n.address)]

    def check(self) -> None:
        """Send a packet of every connection by every node that the router reaches; count what is reset."""
        if not self.connections:
            return
        entries = self._entries()
        self._walks.begin(self.now)
        known = {row: {a for n in self.nodes.values() if n.alive for a in n.chains[row]} for row in range(ROWS)}
        for (row, address, boot), flows in list(self.connections.items()):
            if address not in known[row]:
                self.forgotten += flows
                del self.connections[row, address, boot]
                continue
            for entry in entries:
                event, end = self._walks.walk(entry, row, (address, boot))
                if event in RESETS and end is not None:
                    self.broken += flows
                    self.resets[f"{event.name.lower()} at {end.address}, entered at {entry.address}"] += 1
                    del self.connections[row, address, boot]
                    break

    @property
    def held(self) -> int:
        """How many connections live."""
        return sum(self.connections.values())
