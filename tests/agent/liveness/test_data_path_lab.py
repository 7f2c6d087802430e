# SPDX-License-Identifier: Apache-2.0
"""An asker and a real data path: the program on the other end of a veth answers every encapsulation, without an agent.

A eth0 10.0.0.11, 2001:db8::11 ──── r0 10.0.0.1, 2001:db8::1: the program
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from socket import if_nametoindex

import pytest
from support.bpffs import new_bpffs
from support.programs import PROGRAMS
from support.two_links import ip, two_links

from agent.forwarding.next_hop import NextHop
from agent.liveness.asker import Asker
from agent.liveness.echo_socket import EchoSocket
from agent.liveness.probe_loop import ProbeLoop
from agent.liveness.question import Via
from bpf.attach.datapath import DataPath
from bpf.attach.uplink import detach_link
from bpf.layout.conf import NodeConf
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoState
from bpf.layout.node import NodeEntry
from topology.lab.netns import inside_net

A, B, ROUTER = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.1"), IPv4Address("10.0.1.1")
A6, B6 = IPv6Address("2001:db8::11"), IPv6Address("2001:db8::1")
A_MAC, B_MAC = bytes.fromhex("020000000011"), bytes.fromhex("020000000001")
PORT, CLUSTER, ROWS = 4742, 7, 4096
WAIT_S = 60.0
PREFIXES = [ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")]
EVERY = (Via.GUE, Via.IPIP, Via.MARKER)

pytestmark = pytest.mark.lab


@pytest.fixture
def pins() -> Iterator[Path]:
    with new_bpffs("liveness") as mount:
        yield mount / "b"


@pytest.fixture
def data_path(pins: Path) -> Iterator[DataPath]:
    """B's, attached to r0; this thread is in A's namespace."""
    with two_links() as router:
        ip("link", "set", "eth0", "address", "02:00:00:00:00:11")
        # Natively, the peer would have to be prepared (GRO) to receive what the program sends.
        with inside_net(router):
            path = DataPath.open(pins, "r0", "generic", ROWS, cache_dir=PROGRAMS)
        with closing(path):
            path.maps.conf.write(
                NodeConf(1, 1, bytes(16), address=B, address6=B6, epoch=5, cluster=CLUSTER, echo_port=PORT)
            )
            path.maps.nodes.write(1, NodeEntry(B, 1, B_MAC))
            path.maps.node_prefixes.write(PREFIXES)
            heartbeat(path)
            with inside_net(router):
                path.attach()
            yield path
            with inside_net(router):
                path.detach()


def heartbeat(path: DataPath) -> None:
    """Have the program answer that its agent lives, as from now."""
    path.maps.echo_state.write(EchoState(time.clock_gettime_ns(time.CLOCK_MONOTONIC), 99, 1, 2, True))


def play(scene: Callable[[Asker], Awaitable[None]], over_ipv6: bool = False) -> None:
    """Ask B by every encapsulation."""

    async def run() -> None:
        asker = Asker(A, random.SystemRandom())
        sockets = EchoSocket(
            A, PORT, CLUSTER, lambda _: NextHop(B_MAC), lambda *got: asker.receive(*got, time.monotonic()),
            lambda *_: None, lambda *_: None, egress=lambda: (if_nametoindex("eth0"), A_MAC), allow=PREFIXES,
            own6=A6 if over_ipv6 else None, address6_of=lambda _: B6,
        )  # fmt: skip
        asker.follow([B], time.monotonic(), [ROUTER], EVERY)
        task = asyncio.create_task(ProbeLoop(asker, sockets, lambda: None).run())
        try:
            await scene(asker)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("over_ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_the_program_answers_every_encapsulation(data_path: DataPath, over_ipv6: bool) -> None:
    async def scene(asker: Asker) -> None:
        await until(lambda: all(via in asker.stats(B) and asker.stats(B)[via].rtt_s for via in (Via.PLAIN, *EVERY)))
        await until(lambda: heartbeat(data_path) or asker.liveness[B].agent_lives)
        liveness = asker.liveness[B]
        assert (liveness.answers, liveness.data_path, liveness.ready, liveness.boot) == (True, True, True, 99)
        assert (liveness.epochs, liveness.view_digest, liveness.tables_digest) == ((5,), 1, 2)
        assert data_path.maps.counters.read()[0][Counter.REPLY_ECHO.name.lower()] > 3

    play(scene, over_ipv6)


def test_a_detached_program_is_silent_though_the_kernel_lives(data_path: DataPath, pins: Path) -> None:
    async def scene(asker: Asker) -> None:
        await until(lambda: B in asker.liveness and asker.liveness[B].answers)
        at = time.monotonic()
        detach_link(pins / "link0")
        await until(lambda: asker.liveness[B].answers is False)
        print(f"silent after {asker.liveness[B].since - at:.3f} s")
        assert not asker.isolated

    play(scene)
