# SPDX-License-Identifier: Apache-2.0
"""The loop that runs an asker over its sockets: receive all that has arrived, judge, send. I/O only.

Callbacks of the event loop, not a task: a question costs two wake-ups, when it is sent and when it is answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from agent.liveness.asker import Asker
from agent.liveness.echo_socket import EchoSocket
from agent.liveness.ping_socket import PingSocket
from agent.liveness.question import Via


class ProbeLoop:
    """Steps an asker. `on_step` is called after each step and receipt: there may be suspects, or another liveness."""

    def __init__(self, asker: Asker, sockets: EchoSocket, on_step: Callable[[], None]) -> None:
        self._asker, self._sockets, self._on_step = asker, sockets, on_step
        self._pings = PingSocket(lambda address, nonce: asker.receive_ping(address, nonce, time.monotonic()))
        self._timer: asyncio.TimerHandle | None = None
        self._failure: asyncio.Future[None] | None = None
        """Ends with the first error of a callback, while the loop runs."""

    def wake(self) -> None:
        """Step in time; to be called after `follow` or `hint`."""
        due = self._asker.next_at
        if self._failure is None or due == math.inf:
            return
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._guard, self._step)

    async def run(self) -> None:
        """Ask until canceled. Raises what a callback raised."""
        self._failure = asyncio.get_running_loop().create_future()
        port = asyncio.create_task(self._sockets.run(lambda: self._guard(self._receive)))
        try:
            self.wake()
            await asyncio.wait([self._failure, port], return_when=asyncio.FIRST_COMPLETED)
            (self._failure if self._failure.done() else port).result()
        finally:
            self._failure = None
            port.cancel()
            await asyncio.gather(port, return_exceptions=True)  # a successor needs the port
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._pings.close()

    def _guard(self, callback: Callable[[], None]) -> None:
        """Run a callback; its error ends `run`, where asyncio alone would log it and go on without a timer."""
        try:
            callback()
        except Exception as error:
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)

    def _receive(self) -> None:
        if not self._sockets.drain():  # so many that the kernel may have dropped answers
            self._asker.late(time.monotonic())
        self._on_step()
        self.wake()

    def _step(self) -> None:
        self._timer = None
        # An answer that waits in a socket is no silence.
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
        self.wake()
