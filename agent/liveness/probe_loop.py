# SPDX-License-Identifier: Apache-2.0
"""The loop that runs an asker over its sockets: receive all that has arrived, judge, send. I/O only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from agent.liveness.asker import Asker
from agent.liveness.echo_socket import EchoSocket
from agent.liveness.ping_socket import PingSocket
from agent.liveness.question import Via


class ProbeLoop:
    """Steps an asker. `on_step` is called after each step: there may be suspects, or another liveness."""

    def __init__(self, asker: Asker, sockets: EchoSocket, on_step: Callable[[], None]) -> None:
        self._asker, self._sockets, self._on_step = asker, sockets, on_step
        self._pings = PingSocket(lambda address, nonce: asker.receive_ping(address, nonce, time.monotonic()))
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Step soon; to be called after `follow` or `hint`."""
        self._wake.set()

    async def run(self) -> None:
        """Ask until canceled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sockets.run(self._readable))
            tasks.create_task(self._step())

    def _readable(self) -> None:
        self._sockets.drain()
        self._wake.set()

    async def _step(self) -> None:
        try:
            while True:
                self._wake.clear()
                # An answer that waits in the socket is no silence.
                whole = self._sockets.drain()
                self._pings.drain()
                now = time.monotonic()
                if not whole:
                    self._asker.late(now)
                for question in self._asker.step(now):
                    if question.via is Via.PING:
                        sent = self._pings.ping(question.address, question.nonce)
                    else:
                        sent = self._sockets.ask(question)
                    if not sent:
                        self._asker.not_sent(question, now)
                self._on_step()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._asker.next_at):
                        await self._wake.wait()
        finally:
            self._pings.close()
