# SPDX-License-Identifier: Apache-2.0
"""The count of the connections that this node holds, made again and again by a thread. I/O only.

A dump takes 2 us of CPU for each connection, mostly in the kernel. The event loop goes on meanwhile: numpy and the
kernel let go of Python's lock, and what is Python takes microseconds for each 32 KB of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.config.service import ServiceConfig
from agent.connections.age import Ages
from agent.connections.dump import dump
from agent.connections.held import HeldCounter, HeldRows
from agent.errors import AgentError
from agent.problem import Problem, ProblemLine
from agent.table.epoch import Epoch

log = logging.getLogger("anylb")

PERIOD_S = 30.0
MIN_PERIOD_S = 2.0
"""Between two dumps, whatever asks for them."""
MAX_LOAD = 0.01
"""The share of a core that periodic dumps may take: with a million connections there are fewer."""

UNCOUNTED = Problem(
    "connections cannot be counted: {error}",
    "load the modules tcp_diag and udp_diag",
    "Without a count this node claims no rows: connections may break when members change.",
)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The connections that this node held at one time."""

    rows: Mapping[str, Mapping[int, HeldRows]]
    """By service (`service_key`) and epoch number; a service without connections is absent."""
    oldest: Mapping[str, int]
    """Since when the oldest connection of a service is known, in CLOCK_MONOTONIC seconds, by `service_key`."""
    at: float
    """CLOCK_MONOTONIC seconds of the end of the dump."""
    cpu_s: float
    """CPU seconds that the dump took."""

    def count(self, service: str) -> int:
        """Return the connections of a service (`service_key`)."""
        return next((rows.total for rows in self.rows.get(service, {}).values()), 0)


class ConnectionMonitor:
    """Counts what this node holds of the services, in the rows of each of the epochs.

    `on_change` is called after each dump, and when a dump fails that did not fail before.
    """

    def __init__(
        self, services: Sequence[ServiceConfig], epochs: Sequence[Epoch], on_change: Callable[[], None]
    ) -> None:
        self.held: Held | None = None
        """The last count; None before the first."""
        self.fault: ProblemLine | None = None
        """Why the last dump failed; None if it did not."""
        self._services, self._epochs = services, epochs
        self._on_change = on_change
        self._wanted = asyncio.Event()
        self._busy = asyncio.Lock()
        self._ages: Mapping[str, Ages] = {service.protocol: Ages() for service in services}
        self._counted_at = float("-inf")

    def request(self) -> None:
        """Have the connections counted soon: the rows have changed."""
        self._wanted.set()

    async def run(self) -> None:
        """Count each `PERIOD_S`, more rarely if that takes long; on request `MIN_PERIOD_S` after the last count."""
        while True:
            async with self._busy:
                await self._count()
            cpu_s = self.held.cpu_s if self.held else 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(PERIOD_S, cpu_s / MAX_LOAD)):
                    await self._wanted.wait()
            while (pause_s := self._counted_at + MIN_PERIOD_S - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
            self._wanted.clear()

    async def read(self) -> Held:
        """Return a count that is at most `MIN_PERIOD_S` old. Raises AgentError if the kernel cannot be asked."""
        async with self._busy:
            if self.fault is not None or time.monotonic() - self._counted_at > MIN_PERIOD_S:
                await self._count()
            if self.held is None or self.fault is not None:
                raise AgentError(self.fault)
            return self.held

    async def _count(self) -> None:
        before = self.fault
        try:
            self.held = await asyncio.to_thread(count, self._services, self._epochs, self._ages)
            self.fault = None
        except OSError as error:
            self.fault = UNCOUNTED.line(error=error.strerror)
        self._counted_at = time.monotonic()
        if self.fault is None or self.fault != before:
            self._on_change()


def count(services: Sequence[ServiceConfig], epochs: Sequence[Epoch], ages: Mapping[str, Ages]) -> Held:
    """Count the connections of these services now. Raises OSError if the kernel cannot be asked.

    `ages` has what is known of the connections of each protocol, and learns the new ones.
    """
    began = time.thread_time()
    rows: dict[str, Mapping[int, HeldRows]] = {}
    oldest: dict[str, int] = {}
    for protocol, known in ages.items():
        own = [service for service in services if service.protocol == protocol]
        counter = HeldCounter(own, epochs)
        for sockets in dump(protocol, {service.vip for service in own}):
            counter.add(sockets)
        rows |= counter.rows()
        oldest |= counter.oldest(known, int(time.monotonic()))
    return Held(rows, oldest, time.monotonic(), time.thread_time() - began)
