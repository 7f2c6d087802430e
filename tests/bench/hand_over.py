# SPDX-License-Identifier: Apache-2.0
"""`make bench`, part 9: what a hand-over of NAT sessions takes. Run as `python -m bench.hand_over ROUNDS`; prints JSON.

Two processes with the agent's socket, channel and exchange, on loopback addresses. One holds the sessions; the rows of
all of them move to the other, which asks for them. Time is from the question until the answer is whole and written;
CPU is of both processes, for all that they do meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
from bench import figures
from support.channel_network import CLUSTER, KEY, state
from support.session_arrays import POOLS, Arrays
from support.session_records import record

from agent.channel.channel import Channel
from agent.channel.event import ItemReceived
from agent.handover.exchange import Exchange
from agent.handover.item import Codec, Origin, Slots
from agent.liveness.echo_socket import EchoSocket
from bpf.layout.nat import NAT_ROWS

SLOTS: Final = 1 << 20
SESSIONS: Final = 62_500
HOLDER, NEW = IPv4Address("127.0.0.2"), IPv4Address("127.0.0.3")
PORT: Final = 14742
DEADLINE_S: Final = 20.0


class Node:
    """One end: what membership.py and session_hand_over.py do with a socket, a channel and an exchange."""

    def __init__(self, own: IPv4Address, other: IPv4Address) -> None:
        self.arrays, self.pulls = Arrays(9 + int(own) % 2, SLOTS), np.zeros(NAT_ROWS, np.uint64)
        self.channel = Channel(own, CLUSTER, [KEY], random.SystemRandom())
        codec = Codec(Slots(NAT_ROWS, {4: [Origin(POOLS[4], SLOTS)]}))
        for memory in (self.arrays.tags, self.arrays.map.sessions4):
            memory.view(np.uint8)[:] = 0  # a map's memory is there from the start
        self.exchange = Exchange(int(own), self.arrays.store, codec, self.pulls, self._stream)
        self.socket = EchoSocket(own, PORT, CLUSTER, lambda _: None, lambda *_: None, lambda *_: None, self._receive)
        self.other, self._talk = other, asyncio.Event()
        self._arrived: list[bytes] = []
        self.channel.follow([other], time.monotonic())
        self.channel.publish(state(), time.monotonic())

    async def run(self) -> None:
        """Send and receive forever."""
        await asyncio.gather(self.socket.run(self._drain), self._exchange_forever())

    def _drain(self) -> None:
        self.socket.drain()

    async def _exchange_forever(self) -> None:
        while True:
            for address, datagram in self.channel.step(time.monotonic()):
                self.socket.send_datagram(address, datagram)
            try:
                async with asyncio.timeout(max(0.0, min(1.0, self.channel.next_at - time.monotonic()))):
                    await self._talk.wait()
            except TimeoutError:
                pass
            self._talk.clear()

    def _stream(self, node: int, items: Iterable[bytes]) -> None:
        self.channel.stream(IPv4Address(node), items)
        self._talk.set()

    def _receive(self, data: bytes, source: IPv4Address) -> None:
        for event in self.channel.receive(data, source, time.monotonic()):
            if isinstance(event, ItemReceived):
                if not self._arrived:
                    asyncio.get_running_loop().call_soon(self._take)
                self._arrived.append(event.payload)
        self._talk.set()

    def _take(self) -> None:
        items, self._arrived = self._arrived, []
        self.exchange.receive(int(self.other), items, time.monotonic())


def chains(owner: IPv4Address, second: IPv4Address) -> np.ndarray:
    """Return chains in which one node owns all rows."""
    return np.tile(np.array([int(owner), int(second)], np.uint32), (NAT_ROWS, 1))


async def until(done: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.001)


async def _hold(sessions: int, pipe: Connection) -> None:
    node = Node(HOLDER, NEW)
    slots = np.random.default_rng(1).permutation(SLOTS)[:sessions]
    many = np.repeat(record(0), sessions)
    many["slot"], many["client"] = slots, np.arange(sessions, dtype=">u4").view(np.uint8).reshape(-1, 4)
    node.arrays.store.write(many, 1000)
    node.exchange.begin(chains(HOLDER, NEW), (), 0)
    node.exchange.finish()
    running = asyncio.create_task(node.run())
    await until(lambda: node.channel.states != {})
    pipe.send("ready")
    await until(lambda: pipe.poll() is True)
    cpu = time.process_time()
    node.exchange.begin(chains(NEW, HOLDER), (), 0)
    await asyncio.sleep(0.05)  # a table is built and written meanwhile
    node.exchange.finish()
    await until(lambda: node.channel.is_idle(NEW))
    pipe.send(time.process_time() - cpu)
    running.cancel()


async def _get(pipe: Connection) -> tuple[float, float, int]:
    node = Node(NEW, HOLDER)
    running = asyncio.create_task(node.run())
    await until(lambda: pipe.poll() is True and node.channel.states != {})
    cpu, start = time.process_time(), time.monotonic()
    pipe.send("begin")
    node.exchange.begin(chains(NEW, HOLDER), [int(HOLDER)], start)
    await until(lambda: not node.pulls.any())
    end = time.monotonic()
    found = end - start, time.process_time() - cpu, int((node.arrays.tags != 0).sum())
    running.cancel()
    return found


def hand_over(sessions: int) -> dict[str, float]:
    """Hand so many sessions over, once. Raises RuntimeError if some did not arrive."""
    here, there = Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(_hold(sessions, there))
        finally:
            os._exit(0)
    took_s, owner_s, arrived = asyncio.run(_get(here))
    assert here.recv() == "ready"
    holder_s = here.recv()
    os.waitpid(pid, 0)
    if arrived != sessions:
        raise RuntimeError(f"{arrived} of {sessions} sessions arrived")
    return {"ms": took_s * 1e3, "holder_cpu_ms": holder_s * 1e3, "owner_cpu_ms": owner_s * 1e3}


def measure(rounds: int) -> dict[str, Any]:
    """Return bench.json's `hand_over`."""
    found = [hand_over(SESSIONS) for _ in range(rounds)]
    return {"sessions": SESSIONS, **{name: figures.min_median([one[name] for one in found], 0) for name in found[0]}}


def main(arguments: Sequence[str]) -> None:
    """Print the figures of so many rounds."""
    print(json.dumps(measure(int(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
