# SPDX-License-Identifier: Apache-2.0
"""The direct probe's socket: sends requests and replies. The messages are probe_message.py's. I/O only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import cast

from agent.config.schema import Config
from agent.membership.probe_message import Asker, answer, probe_key

RETRY_S = 2.0


class Prober(asyncio.DatagramProtocol):
    """Keeps the socket open while `run` runs. `error` says why it is not, if it is not.

    `version` is asked for each answer: what this node speaks under, or None when it is not to answer. `answered` is
    called with a node that answered, and its version.
    """

    def __init__(
        self,
        config: Config,
        own: IPv4Address,
        version: Callable[[], int | None],
        answered: Callable[[IPv4Address, int], None],
    ) -> None:
        self.error: str | None = None
        self._own, self._port, self._cluster = own, config.members.probe_port, config.cluster
        self._allowed = config.members.allow
        secrets = (config.hash_key, config.previous_key)
        self._keys = [probe_key(secret) for secret in secrets if secret is not None]
        self._version, self._answered = version, answered
        self._asker = Asker(own, config.cluster, self._keys)
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Listen until canceled. Where the port is taken it is tried again: the node does without meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            self._closed.clear()
            try:
                await loop.create_datagram_endpoint(lambda: self, (str(self._own), self._port))
                self.error = None
                await self._closed.wait()
            except OSError as error:
                text = f"UDP {self._own}:{self._port}: {error.strerror}: other nodes cannot ask this one directly; "
                text += "free the port, or set members.probe_port on all nodes"
                self.error = text
                await asyncio.sleep(RETRY_S)
            finally:
                if self._transport is not None:
                    self._transport.close()

    def ask(self, addresses: Iterable[IPv4Address]) -> None:
        """Send each of these nodes a question."""
        for address in addresses:
            if self._transport is not None:
                question = self._asker.ask(address, os.urandom(8), time.monotonic())
                self._transport.sendto(question, (str(address), self._port))

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        # Python 3.11's own transport does not derive from DatagramTransport.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._transport = None
        self._closed.set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question, or take an answer; everything else is dropped."""
        source = IPv4Address(addr[0])
        if not any(source in network for network in self._allowed):
            return
        now = time.monotonic()
        version = self._asker.heard(data, source, now)
        if version is not None:
            self._answered(source, version)
            return
        own_version = self._version()
        if own_version is None or self._transport is None:
            return
        reply = answer(data, source, self._own, self._cluster, self._keys, own_version)
        if reply is not None:
            self._transport.sendto(reply, addr)
