# SPDX-License-Identifier: Apache-2.0
"""Nodes with channels on a network in virtual time: what each datagram's fate is, the test decides."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.address import NodeAddress
from agent.channel.channel import Channel
from agent.channel.event import Event
from agent.channel.message import Message, parse
from agent.channel.state import NodeState, ServiceEndpoint, StateShare
from agent.model import State

CLUSTER = 4242
KEY = b"k" * 16
START = 1000.0


def address(number: int) -> IPv4Address:
    return NodeAddress(IPv4Address("10.0.0.11") + number)


def state(version: int = 1, services: int = 1, weight: int = 100, boot: int = 7) -> NodeState:
    vip = IPv4Address("192.0.2.10")
    share = StateShare(weight, weight, State.UP, True)
    shares = {ServiceEndpoint(vip, "tcp", port): share for port in range(1, services + 1)}
    return NodeState(boot=boot, version=version, release="0.1.0", ready=True, epochs=(1,), shares=shares)


@dataclass(frozen=True)
class Datagram:
    """A datagram on its way."""

    source: IPv4Address
    destination: IPv4Address
    data: bytes


@dataclass
class Network:
    """`fate` returns after how many seconds each copy of a datagram arrives: none if it is lost."""

    fate: Callable[[Datagram], Sequence[float]] = lambda datagram: (0.001,)
    now: float = START
    channels: dict[IPv4Address, Channel] = field(default_factory=dict)
    events: list[tuple[IPv4Address, Event]] = field(default_factory=list)
    """All events, each with the node where it happened."""
    sent: list[Datagram] = field(default_factory=list)
    keep_sent: bool = True
    """Off for large networks: `sent` stays empty."""
    channel_class: type[Channel] = Channel
    count: Counter[IPv4Address] = field(default_factory=Counter)
    """Datagrams sent by each node."""

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self._heap: list[tuple[float, int, IPv4Address, Datagram | None]] = []
        """Arrivals; without a datagram: a node's step is due."""
        self._step_at: dict[IPv4Address, float] = {}

    def start(self, number: int, keys: Sequence[bytes] = (KEY,), cluster: int = CLUSTER) -> Channel:
        """Start a node, or restart it with other nonces and no memory."""
        seed = f"{number} {next(self._order)}"
        channel = self.channel_class(address(number), cluster, keys, random.Random(seed))
        self.channels[address(number)] = channel
        return channel

    def stop(self, number: int) -> None:
        del self.channels[address(number)]

    def inject(self, datagram: Datagram, delay_s: float = 0.0) -> None:
        """Let a datagram arrive, whoever made it."""
        self._push(self.now + delay_s, datagram.destination, datagram)

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, and carry out what happens meanwhile. Return earlier once `done`."""
        until = self.now + seconds
        for node in self.channels:
            self.step(node)
        while self._heap and self._heap[0][0] <= until:
            if done():
                return
            self.now, _, node, datagram = heapq.heappop(self._heap)
            channel = self.channels.get(node)
            if channel is None:
                continue
            if datagram is not None:
                self.events += [(node, event) for event in channel.receive(datagram.data, datagram.source, self.now)]
            self.step(node)
        self.now = until

    def step(self, node: IPv4Address) -> None:
        """Send what a node has to send now."""
        channel = self.channels[node]
        if channel.next_at <= self.now:
            for destination, data in channel.step(self.now):
                self._transmit(Datagram(node, destination, data))
        due = channel.next_at
        if due != self._step_at.get(node) and due < float("inf"):
            self._step_at[node] = due
            self._push(max(due, self.now), node, None)

    def _transmit(self, datagram: Datagram) -> None:
        self.count[datagram.source] += 1
        if self.keep_sent:
            self.sent.append(datagram)
        for delay in self.fate(datagram):
            self._push(self.now + delay, datagram.destination, datagram)

    def _push(self, at: float, node: IPv4Address, datagram: Datagram | None) -> None:
        heapq.heappush(self._heap, (at, next(self._order), node, datagram))


A, B, C = address(0), address(1), address(2)


def pair(network: Network, services: int = 1) -> tuple[Channel, Channel]:
    """Start A and B, each with a state, and let them meet."""
    a, b = network.start(0), network.start(1)
    a.publish(state(1, services), network.now)
    b.publish(state(2, services), network.now)
    a.follow({A, B}, network.now)
    b.follow({A, B}, network.now)
    return a, b


def sent(network: Network, source: IPv4Address | None = None) -> list[Message]:
    """Return what was sent, and forget it."""
    messages = [parse(one.data) for one in network.sent if source in (None, one.source)]
    network.sent.clear()
    assert all(messages)
    return [message for message in messages if message]


def kinds(messages: list[Message]) -> list[int]:
    return [message.kind for message in messages]
