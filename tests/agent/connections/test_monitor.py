# SPDX-License-Identifier: Apache-2.0
"""When connections are counted, by a real loop and thread; and what is counted, by the real kernel."""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from support.sockets import service_of

from agent.connections import monitor as monitor_module
from agent.connections.age import Ages
from agent.connections.held import HeldRows
from agent.connections.monitor import ConnectionMonitor, Held, count
from agent.errors import AgentError
from agent.table.epoch import Epoch
from bpf.reference.flow_hash import row_of

EPOCHS = [Epoch(1, 1, 4096, 4, bytes(range(16))), Epoch(2, 1, 4096, 4, bytes(16))]
HERE = "127.77.1.1"
CLIENT = "127.77.2.1"


@contextlib.contextmanager
def connected(kind: socket.SocketKind) -> Iterator[tuple[int, int]]:
    """Connect a client to HERE; yield the server's port and the client's."""
    with socket.socket(socket.AF_INET, kind) as server, socket.socket(socket.AF_INET, kind) as client:
        server.bind((HERE, 0))
        client.bind((CLIENT, 0))
        if kind is socket.SOCK_STREAM:
            server.listen()
        else:
            server.connect(client.getsockname())
        client.connect(server.getsockname())
        yield server.getsockname()[1], client.getsockname()[1]


def test_connections_of_both_protocols_are_counted() -> None:
    with connected(socket.SOCK_STREAM) as tcp, connected(socket.SOCK_DGRAM) as udp:
        services = [service(HERE, port, kind) for (port, _), kind in ((tcp, "tcp"), (udp, "udp"))]
        services.append(service(HERE, "any", "tcp"))
        held = count(services, EPOCHS, {"tcp": Ages(), "udp": Ages()})
        for one, (port, client_port) in zip(services, (tcp, udp), strict=False):
            assert held.count(one.key) == 1
            for epoch in EPOCHS:
                ends = ip_address(CLIENT), client_port, ip_address(HERE), port
                assert held.rows[one.key][epoch.number].rows.tolist() == [row_of(epoch.key, epoch.rows, *ends)]
        assert held.count(services[2].key) == 0
        assert held.cpu_s > 0


def service(vip: str, port: int | str, protocol: str) -> Any:
    """Return a service on the loopback, which a configuration cannot have."""
    return service_of("10.99.0.1", port, protocol).model_copy(update={"vip": ip_address(vip)})


class Counts:
    """Stands for the count of the kernel's sockets: yields results, and notes when."""

    def __init__(self, *results: Held | OSError) -> None:
        self.at: list[float] = []
        self._results = list(results)

    def __call__(self, *_: object) -> Held:
        self.at.append(time.monotonic())
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, OSError):
            raise result
        return Held(result.rows, {}, time.monotonic(), result.cpu_s)


def held(connections: int, cpu_s: float = 0.0) -> Held:
    rows: Mapping[str, Mapping[int, HeldRows]] = {
        "web": {1: HeldRows(np.array([7], np.uint32), np.array([connections], np.uint32))}
    }
    return Held(rows, {}, 0.0, cpu_s)


def run(
    monkeypatch: pytest.MonkeyPatch, counts: Counts, use: Callable[[ConnectionMonitor, list[str]], Awaitable[None]],
    period_s: float = 1000.0, min_period_s: float = 0.05,
) -> None:  # fmt: skip
    """Run a monitor whose changes are noted, while it is used."""
    monkeypatch.setattr(monitor_module, "count", counts)
    monkeypatch.setattr(monitor_module, "PERIOD_S", period_s)
    monkeypatch.setattr(monitor_module, "MIN_PERIOD_S", min_period_s)

    async def main() -> None:
        changes: list[str] = []
        monitor = ConnectionMonitor([], [], lambda: changes.append(monitor.fault or "counted"))
        task = asyncio.create_task(monitor.run())
        try:
            async with asyncio.timeout(60):
                await use(monitor, changes)
        finally:
            task.cancel()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_it_counts_at_once_then_on_request_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(held(1), held(2))

    async def use(monitor: ConnectionMonitor, changes: list[str]) -> None:
        await until(lambda: changes == ["counted"])
        assert monitor.held is not None
        assert monitor.held.count("web") == 1
        for _ in range(3):
            monitor.request()
        await until(lambda: len(counts.at) == 2)
        await until(lambda: changes == ["counted", "counted"])
        assert monitor.held.count("web") == 2
        assert counts.at[1] - counts.at[0] >= 0.05
        await asyncio.sleep(0.15)
        assert len(counts.at) == 2, "a period is long, and three requests are one"

    run(monkeypatch, counts, use)


def test_it_counts_each_period_and_rarely_if_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def many(_: ConnectionMonitor, changes: list[str]) -> None:
        await until(lambda: len(changes) >= 4)

    run(monkeypatch, Counts(held(1)), many, period_s=0.01, min_period_s=0.01)

    async def one(_: ConnectionMonitor, changes: list[str]) -> None:
        await until(lambda: changes)
        await asyncio.sleep(0.2)
        assert len(changes) == 1

    run(monkeypatch, Counts(held(1, cpu_s=20.0)), one, period_s=0.01, min_period_s=0.01)


def test_readers_share_a_count_that_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts(held(5))

    async def use(monitor: ConnectionMonitor, _: list[str]) -> None:
        found = await asyncio.gather(*(monitor.read() for _ in range(5)))
        assert {one.count("web") for one in found} == {5}
        assert len(counts.at) == 1

    run(monkeypatch, counts, use, min_period_s=1000.0)


def test_a_fault_is_named_once_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = OSError(errno.ENOENT, "sock_diag: No such file or directory")
    counts = Counts(gone, gone, held(1))
    line = "connections cannot be counted: sock_diag: No such file or directory: load the modules tcp_diag and udp_diag"

    async def use(monitor: ConnectionMonitor, changes: list[str]) -> None:
        await until(lambda: changes == [line])
        assert monitor.held is None
        with pytest.raises(AgentError, match="load the modules"):
            await monitor.read()
        assert changes == [line]
        await monitor.read()
        assert changes == [line, "counted"]
        assert monitor.fault is None

    run(monkeypatch, counts, use)


def test_the_loop_goes_on_while_a_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that does not end before the loop has done something."""
    entered, answer = asyncio.Event(), []

    def slow(*_: object) -> Held:
        loop.call_soon_threadsafe(entered.set)
        while not answer:
            time.sleep(0.001)
        return held(1)

    monkeypatch.setattr(monitor_module, "count", slow)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        monitor = ConnectionMonitor([], [], lambda: None)
        reading = asyncio.create_task(monitor.read())
        await entered.wait()
        answer.append(True)
        assert (await reading).count("web") == 1

    with contextlib.closing(loop):
        loop.run_until_complete(asyncio.wait_for(main(), 60))
        loop.run_until_complete(loop.shutdown_default_executor())
