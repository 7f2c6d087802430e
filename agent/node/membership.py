# SPDX-License-Identifier: Apache-2.0
"""The other nodes: asks them, sends them what this one serves, and keeps the view. I/O only.

Who is named is membership/received.py's, who answers liveness/'s, what they serve channel/'s, and what follows from all
of it membership/view.py's. This file brings them together.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from agent.address import Address
from agent.channel.channel import Channel
from agent.channel.claim_log import NodeClaims
from agent.channel.event import ClaimsReceived, ItemReceived, Notice, SessionBegun
from agent.channel.message import FIRST_NOTICE
from agent.channel.nat_state import BackendOrder, NatState
from agent.channel.problem import Cause, ProblemLog
from agent.channel.service_difference import differences
from agent.channel.state import MAX_UNREACHABLE, NodeState, pack_addresses, unpack_addresses
from agent.liveness.asker import Asker
from agent.liveness.echo_socket import EchoSocket
from agent.liveness.probe_loop import ProbeLoop
from agent.liveness.question import Liveness, PathStats, Via
from agent.membership.agreement import Agreement, Digests
from agent.membership.observations import Observations
from agent.membership.obstacle import (
    Obstacle,
    blocked,
    bounded,
    cut_off,
    cut_off_at_start,
    obstacles,
    other_claims,
    other_clusters,
)
from agent.membership.received import IdentityReader, Named, Received
from agent.membership.view import View
from agent.model import Member, Share
from agent.node.forwarder import Forwarder
from agent.node.own_state import OwnState
from agent.node.plan import ThisNode
from agent.problem import ProblemLine
from bgp.relay.protocol import Snapshot
from bpf.layout.echo import EchoMessage

SUSPECTS = FIRST_NOTICE
"""The notice that lists nodes which may be silent: whoever receives it asks them itself."""
COUNT_S = 0.02
"""The least time between two counts of the echoes that the data path answers: less than that of a burst's questions."""
_VIAS = {"l2": Via.MARKER, "ipip": Via.IPIP, "gue": Via.GUE}


class Membership:
    """What this node knows of the others, and what it publishes to them."""

    def __init__(
        self,
        node: ThisNode,
        boot: int,
        saved: Iterable[Member],
        known: Iterable[IPv4Address],
        forwarder: Forwarder | None,
        on_change: Callable[[], None],
    ) -> None:
        """`boot` is the number of this boot; `saved` are the members that an earlier agent left, `known` the nodes that
        it knew; `forwarder` knows how packets reach a node, None without a data path. `on_change` is called when
        something new is observed."""
        config = node.config
        self.boot = boot
        self.view = View(saved)
        self.received = Received()
        self.ends: Mapping[IPv4Address, IPv6Address | None] = {}
        """The nodes that are named or members, with their IPv6 ends of tunnels; the same object until that changes."""
        self.obstacles: tuple[Obstacle, ...] = ()
        self.agreement = Agreement()
        self._node, self._on_change = node, on_change
        self._reader = IdentityReader(config, node.address)
        self._static = {address: Named() for address in config.members.static if address != node.address}
        self._known_before = {address: Named() for address in known if address != node.address}
        self._named: Mapping[IPv4Address, Named] = {}
        self._own_state = OwnState(node, boot)
        self._shown_liveness: Mapping[IPv4Address, Liveness] = {}
        self._foreign = ProblemLog()
        """Those that ask as if this node were of their cluster."""
        self._asker = Asker(node.address, random.SystemRandom())
        self._count_echoes = forwarder.count_echoes if forwarder is not None else lambda: 0
        self._echoes = 0, 0.0
        """How many questions of others were answered here, and when they were counted."""
        self._vias = {_VIAS[forward] for forward in config.forwards} if forwarder is not None else set()
        self._controls = [p.address for p in config.bgp.peers if not p.address.is_link_local]
        self._sockets = EchoSocket(
            node.address,
            config.members.port,
            config.cluster,
            forwarder.hop_of if forwarder is not None else lambda _: None,
            self._receive_answer,
            self._note_foreign,
            self._receive,
            egress=forwarder.egress if forwarder is not None else lambda: None,
            own6=node.address6 if config.members.outer == "ipv6" else None,
            address6_of=lambda address: self.ends.get(address),
            answer_as_agent=self._own_state.echo_answer if forwarder is None else None,
            allow=config.members.allow,
        )
        self._probes = ProbeLoop(self._asker, self._sockets, self._on_asked)
        self._channel = Channel(node.address, config.cluster, config.channel_keys, random.SystemRandom())
        self.on_notice: Callable[[Notice, float], None] = lambda notice, now: None
        """Gets the channel's notices that are none of membership, and the time."""
        self.on_item: Callable[[IPv4Address, bytes], None] = lambda address, item: None
        """Gets the items of the streams of others."""
        self.on_session: Callable[[IPv4Address], None] = lambda address: None
        """Is called when a session with another agent begins: it may be another process, without the last items."""
        self._talk = asyncio.Event()

    # What is received

    def read(self, snapshot: Snapshot | None, connected: bool) -> None:
        """Take what the routers advertise."""
        before = self.received
        self.received = received = self._reader.read(snapshot, connected)
        if received is before:
            return
        now = time.monotonic()
        named = {**self._static, **received.named}
        for address, one in named.items():
            if one.start != self._named.get(address, one).start:
                self._channel.wake(address, now)
        self._named = self._named if named == self._named else named
        self._hint(received.withdrawn)

    def observe(self, now: float) -> None:
        """Bring the view to all that is observed."""
        named = self._named if self.view.is_complete() else {**self._known_before, **self._named}
        ends = {address: one.address6 for address, one in named.items()}
        ends |= {member.address: member.address6 for member in self.view.members}
        if ends != self.ends:
            self.ends = ends
            self._asker.follow(ends, now, self._controls, self._vias)
            self._sockets.follow(ends)
            self._probes.wake()
            self._channel.follow(ends.keys(), now)
        observed = Observations(named, self.received.complete, self._asker.liveness, self._channel.states)
        self.view.observe(observed, now)
        members = {member.address for member in self.view.members}
        states = {address: state for address, state in observed.states.items() if address in members}
        lines = differences(self._own_state.endpoints.values(), states)
        self.obstacles = (
            *obstacles(observed, self._node.address, members, self._node.config.members.port),
            *blocked(observed, self._vias, self._asker.stats),
            *other_claims(states, self._own_state.reads_claims),
            *other_clusters(self.received.other_clusters, self._node.config.cluster),
            *(("services", line, line) for line in lines),
        )
        self._talk.set()

    @property
    def own(self) -> IPv4Address:
        """This node's address."""
        return self._node.address

    @property
    def liveness(self) -> Mapping[IPv4Address, Liveness]:
        """Who answers."""
        return self._asker.liveness

    @property
    def states(self) -> Mapping[IPv4Address, NodeState]:
        """What the other nodes published last of themselves, whether or not they answer now."""
        return self._channel.states

    def present_states(self) -> dict[IPv4Address, NodeState]:
        """Return what the nodes that answer publish."""
        liveness = self.liveness
        return {
            address: state
            for address, state in self._channel.states.items()
            if (one := liveness.get(address)) is not None and one.answers
        }

    def echo_stats(self, address: IPv4Address) -> Mapping[Via, PathStats]:
        """Return the round trip times and losses of a node's echoes, by the encapsulation that they have."""
        return self._asker.stats(address)

    def compare(self, digests: Digests) -> None:
        """Compare this node's view and tables with those of the others."""
        self.agreement = self.agreement.after(digests, self.liveness, time.time())

    @property
    def isolated(self) -> bool:
        """Whether no node answers this one, so that it does not know whether others can reach it."""
        return self._asker.isolated

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return what keeps this node from knowing others, one line each, with the next step."""
        now, port = time.monotonic(), self._node.config.members.port
        own = [self._sockets.error] if self._sockets.error else []
        if self.view.waits_alone(now):
            own.append(cut_off_at_start(port))
        elif self.isolated:
            own.append(cut_off(port, self._asker.is_asked(now)))
        return (*bounded(self.received.unreadable), *own, *self._foreign.lines(now), *self._channel.problems(now))

    # What is published

    def publish(self, shares: Mapping[str, Share], ready: bool) -> None:
        """Publish this node's shares, by service and of the sessions, and whether its tables are made of a
        whole view."""
        if self._own_state.set_shares(shares, ready, self.view.unreachable):
            self._publish_state()

    @property
    def own_nat(self) -> NatState | None:
        """What this node publishes about NAT; None if it has no share of the sessions."""
        return self._own_state.state.nat if self._own_state.state is not None else None

    def publish_backends(self, results: Mapping[int, bool], orders: Mapping[int, BackendOrder]) -> None:
        """Publish the results of this node's checks of backends, and the orders for backends that it knows,
        both by the backend's number. A node without a share of the sessions publishes neither."""
        if self._own_state.set_backends(results, orders):
            self._publish_state()

    def publish_former(self, former: bool) -> None:
        """Publish whether this node has sessions of the former pool of NAT."""
        if self._own_state.set_former(former):
            self._publish_state()

    def _publish_state(self) -> None:
        assert self._own_state.state is not None
        self._channel.publish(self._own_state.state, time.monotonic())
        self._talk.set()

    @property
    def claims(self) -> Mapping[IPv4Address, NodeClaims]:
        """What the others claim, of each that has published it."""
        return self._channel.claims

    def publish_claims(self, claims: NodeClaims) -> None:
        """Publish what this node claims. Raises ValueError if it is too much."""
        self._channel.publish_claims(claims)
        self._talk.set()

    @property
    def version(self) -> int:
        """The version of this node's state; 0 before it has published one."""
        return self._own_state.version

    def _on_asked(self) -> None:
        """Send the others the nodes to ask too, greet those that are back, and have the view follow what changed."""
        (before, at), now = self._echoes, time.monotonic()
        if now >= at + COUNT_S:
            self._echoes = self._count_echoes(), now
            if self._echoes[0] > before:
                self._asker.questioned(at)
        for address in self._asker.take_returned():
            self._channel.wake(address, time.monotonic())
            self._talk.set()
        if suspects := self._asker.take_suspects():
            self._channel.notify(SUSPECTS, pack_addresses(suspects[:MAX_UNREACHABLE]), time.monotonic())
            self._talk.set()
        if self._asker.liveness is not self._shown_liveness:
            self._shown_liveness = self._asker.liveness
            self._on_change()

    def _receive_answer(self, address: IPv4Address, answer: EchoMessage) -> None:
        self._asker.receive(address, answer, time.monotonic())

    def _note_foreign(self, address: Address, cluster: int) -> None:
        detail = f"cluster {cluster}, this node for cluster {self._node.config.cluster}"
        self._foreign.add(Cause.CLUSTER, int(address), time.monotonic(), detail)

    def notify_one(self, address: IPv4Address, kind: int, payload: bytes) -> None:
        """Send a notice to one node; it may be lost."""
        self._channel.notify_one(address, kind, payload, time.monotonic())
        self._talk.set()

    def stream(self, address: IPv4Address, items: Iterable[bytes]) -> None:
        """Send items to one node, in order; those for a node that is followed no more are lost."""
        self._channel.stream(address, items)
        self._talk.set()

    def is_idle(self, address: IPv4Address) -> bool:
        """Return whether a node has acknowledged all items."""
        return self._channel.is_idle(address)

    def _receive(self, datagram: bytes, source: IPv4Address) -> None:
        """Take a datagram of the channel."""
        now = time.monotonic()
        for event in self._channel.receive(datagram, source, now):
            if isinstance(event, ClaimsReceived):
                continue
            if isinstance(event, ItemReceived):
                self.on_item(event.address, event.payload)
            elif not isinstance(event, Notice):
                if isinstance(event, SessionBegun):
                    self.on_session(event.address)
                self._on_change()
            elif event.kind == SUSPECTS:
                with contextlib.suppress(ValueError):
                    self._hint(unpack_addresses(event.payload))
            else:
                self.on_notice(event, now)
        self._talk.set()

    def _hint(self, addresses: Iterable[IPv4Address]) -> None:
        for address in addresses:
            self._asker.hint(address, time.monotonic())
        self._probes.wake()

    # Tasks

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [self._probes.run(), self._exchange_forever()]

    async def _exchange_forever(self) -> None:
        """Send the channel's datagrams when they are due."""
        while True:
            for address, datagram in self._channel.step(time.monotonic()):
                self._sockets.send_datagram(address, datagram)
            due = self._channel.next_at
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(due) else max(0.0, due - time.monotonic())):
                    await self._talk.wait()
            self._talk.clear()
