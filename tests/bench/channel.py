# SPDX-License-Identifier: Apache-2.0
"""What the channel costs in a large cluster: `PYTHONPATH=tests python -m bench.channel [NODES ...]`. Prints lines.

One change: a node with 150 services publishes another state to all others, which have sessions. Start: all nodes start
at once, until all know all. Time is virtual, CPU time is real: without the sockets', and at the start with the
simulation's.

A datagram takes 0.2 ms on the wire, and then `HANDLING_S` of its receiver, one after the other: what the sockets and
the channel cost a real agent. A receiver with `QUEUE` datagrams waiting loses the next one, as its socket would.
"""

import sys
import time
from collections import defaultdict
from ipaddress import IPv4Address

from support.channel_network import Datagram, Network, address, state

from agent.channel.channel import Channel
from agent.channel.counter import Count
from agent.channel.event import Event

WIRE_S = 0.0002
HANDLING_S = 0.0001
QUEUE = 256
"""About as many small datagrams as net.core.rmem_default holds."""
SERVICES = 150
DEADLINE_S = 60.0


class TimedChannel(Channel):
    """A channel that adds up its CPU time."""

    cpu_s = 0.0

    def receive(self, data: bytes, source: IPv4Address, now: float) -> list[Event]:
        start = time.thread_time()
        events = super().receive(data, source, now)
        self.cpu_s += time.thread_time() - start
        return events

    def step(self, now: float) -> list[tuple[IPv4Address, bytes]]:
        start = time.thread_time()
        datagrams = super().step(now)
        self.cpu_s += time.thread_time() - start
        return datagrams


class BusyNetwork(Network):
    """A network whose nodes take one datagram after the other. `seen` counts the states that arrived."""

    def __init__(self, channel_class: type[Channel]) -> None:
        super().__init__(self.arrival, keep_sent=False, channel_class=channel_class)
        self.lost = 0
        self._free_at: defaultdict[IPv4Address, float] = defaultdict(float)

    def arrival(self, datagram: Datagram) -> tuple[float, ...]:
        start = max(self.now + WIRE_S, self._free_at[datagram.destination])
        if start - self.now > QUEUE * HANDLING_S:
            self.lost += 1
            return ()
        self._free_at[datagram.destination] = start + HANDLING_S
        return (start + HANDLING_S - self.now,)

    def run_until_events(self, count: int) -> float:
        """Run until so many events have happened; return the virtual seconds."""
        start = self.now
        self.run(DEADLINE_S, lambda: len(self.events) >= count)
        assert len(self.events) >= count
        return self.now - start


def one_change(nodes: int) -> None:
    network = BusyNetwork(TimedChannel)
    own = address(0)
    first = network.start(0)
    for number in range(1, nodes):
        network.start(number).follow({own}, network.now)
    first.publish(state(1, SERVICES), network.now)
    first.follow({address(number) for number in range(nodes)}, network.now)
    network.run(10)
    others = [channel for node, channel in network.channels.items() if node != own]
    assert all(own in one.states for one in others)
    network.events.clear()
    network.count.clear()
    for channel in network.channels.values():
        channel.cpu_s = 0.0
    start = time.thread_time()
    first.publish(state(2, SERVICES), network.now)
    publish_s = time.thread_time() - start
    took = network.run_until_events(nodes - 1)
    network.run(5)
    sent, others_cpu_s = network.count.pop(own), sum(one.cpu_s for one in others)
    print(
        f"one change, {nodes} nodes: {sent} datagrams, {sum(network.count.values())} answers; all know it after "
        f"{took * 1e3:.0f} ms; CPU {(publish_s + first.cpu_s) * 1e3:.1f} ms, "
        f"{others_cpu_s / len(others) * 1e6:.0f} us in each other node"
    )


def start_all(nodes: int) -> None:
    network = BusyNetwork(Channel)
    start = time.process_time()
    everyone = {address(number) for number in range(nodes)}
    for number in range(nodes):
        channel = network.start(number)
        channel.publish(state(number + 1, SERVICES), network.now)
        channel.follow(everyone, network.now)
    took = network.run_until_events(2 * nodes * (nodes - 1))
    network.run(5)
    cpu_s = time.process_time() - start
    channels = network.channels.values()
    assert all(len(one.states) == nodes - 1 for one in channels)
    useless = sum(one.counters[Count.REPEATED] + one.counters[Count.STALE_SESSION] for one in channels)
    print(
        f"{nodes} nodes start at once: {sum(network.count.values()) / nodes:.0f} datagrams each, {useless / nodes:.1f} "
        f"stale or repeated, {network.lost / nodes:.1f} lost; all know all after {took * 1e3:.0f} ms; "
        f"CPU {cpu_s / nodes * 1e3:.0f} ms each"
    )


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]] or [16, 128]
    for size in sizes:
        one_change(size)
    for size in sizes:
        start_all(size)
