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
from agent.membership.probe_message import OpenRequests, probe_key, reply_to

RETRY_S = 2.0


class Prober(asyncio.DatagramProtocol):
    """The UDP socket of the probes, open while `run` runs. `error` is why it is not open, or None.

    `version` is called for each reply: it returns the version of this node's identity, or None for no reply.
    `on_reply` is called with the address and version of a node that replied.
    """

    def __init__(
        self,
        config: Config,
        own: IPv4Address,
        version: Callable[[], int | None],
        on_reply: Callable[[IPv4Address, int], None],
    ) -> None:
        self.error: str | None = None
        self._own, self._port, self._cluster = own, config.members.port, config.cluster
        self._allowed = config.members.allow
        secrets = (config.hash_key, config.previous_key)
        self._keys = [probe_key(secret) for secret in secrets if secret is not None]
        self._version, self._on_reply = version, on_reply
        self._requests = OpenRequests(own, config.cluster, self._keys)
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Listen until canceled. While the port is taken, retry; the node works without probes meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            self._closed.clear()
            try:
                await loop.create_datagram_endpoint(lambda: self, (str(self._own), self._port))
                self.error = None
                await self._closed.wait()
            except OSError as error:
                self.error = (
                    f"UDP {self._own}:{self._port}: {error.strerror}: other nodes cannot probe this one directly; free "
                    "the port, or set members.port on all nodes"
                )
                await asyncio.sleep(RETRY_S)
            finally:
                if self._transport is not None:
                    self._transport.close()

    def probe(self, addresses: Iterable[IPv4Address]) -> None:
        """Send each of these nodes a request."""
        for address in addresses:
            if self._transport is not None:
                request = self._requests.create(address, os.urandom(8), time.monotonic())
                self._transport.sendto(request, (str(address), self._port))

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the open socket."""
        # Python 3.11's own transport does not derive from DatagramTransport.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let `run` open the socket again."""
        self._transport = None
        self._closed.set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Accept a reply, or reply to a request; drop everything else."""
        source = IPv4Address(addr[0])
        if not any(source in network for network in self._allowed):
            return
        now = time.monotonic()
        version = self._requests.accept(data, source, now)
        if version is not None:
            self._on_reply(source, version)
            return
        own_version = self._version()
        if own_version is None or self._transport is None:
            return
        reply = reply_to(data, source, self._own, self._cluster, self._keys, own_version)
        if reply is not None:
            self._transport.sendto(reply, addr)
