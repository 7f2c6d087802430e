# SPDX-License-Identifier: Apache-2.0
"""Overviews of nodes: asks the others for theirs, and gives this node's, for `lbctl cluster`.

The channel carries requests and replies as notices, which may be lost, so a request is repeated. Nothing is sent while
no one asks, and however many ask, a node asks and looks at itself at most once in `FRESH_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from agent.channel.event import Notice
from agent.channel.message import Kind
from agent.channel.overview import Overview, decode_reply, decode_request, encode_reply, encode_request

ATTEMPTS: Final = 3
ATTEMPT_S: Final = 0.25
BATCH: Final = 64
BATCH_S: Final = 0.01
"""Of 1,000 nodes not all answer at once: a socket's buffer holds so many replies while the agent is busy."""
FRESH_S: Final = 0.5


class Overviews:
    """Asks other nodes, and answers them. `notify(address, kind, payload)` sends a notice."""

    def __init__(self, notify: Callable[[IPv4Address, int, bytes], object]) -> None:
        self._notify = notify
        self.look: Callable[[], Overview] | None = None
        """Returns this node's overview, of now; None until there is a control socket, whose verdict is in it."""
        self._own: tuple[float, Overview] | None = None
        self._numbers = itertools.count(1)
        self._asking = asyncio.Lock()
        self._number = 0
        self._missing: set[IPv4Address] = set()
        """The nodes that have not answered the request with that number, and those that have."""
        self._found: dict[IPv4Address, Overview] = {}
        self._complete = asyncio.Event()
        self._collected: tuple[float, Mapping[IPv4Address, Overview]] = float("-inf"), {}

    def own(self) -> Overview | None:
        """Return this node's overview, at most `FRESH_S` old."""
        if self.look is None:
            return None
        if self._own is None or time.monotonic() - self._own[0] >= FRESH_S:
            overview = self.look()
            self._own = time.monotonic(), overview
        return self._own[1]

    async def collect(self, nodes: Collection[IPv4Address]) -> Mapping[IPv4Address, Overview]:
        """Return the overviews of those of the nodes that answer, at most `FRESH_S` old."""
        async with self._asking:
            if time.monotonic() - self._collected[0] >= FRESH_S:
                await self._ask(nodes)
                self._collected = time.monotonic(), self._found
            return self._collected[1]

    async def _ask(self, nodes: Collection[IPv4Address]) -> None:
        self._number = next(self._numbers) & 0xFFFFFFFF
        self._missing, self._found = set(nodes), {}
        self._complete = asyncio.Event()
        for _ in range(ATTEMPTS):
            for count, node in enumerate(sorted(self._missing)):
                if count and count % BATCH == 0:
                    await asyncio.sleep(BATCH_S)
                if node in self._missing:
                    self._notify(node, Kind.OVERVIEW_REQUEST, encode_request(self._number))
            if not self._missing:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._complete.wait(), ATTEMPT_S)

    def receive(self, notice: Notice) -> None:
        """Take a notice of another node: answer a request, or note a reply."""
        with contextlib.suppress(ValueError):  # of a later release, or wrong: as if it were lost
            if notice.kind == Kind.OVERVIEW_REQUEST:
                number, own = decode_request(notice.payload), self.own()
                if own is not None:
                    self._notify(notice.address, Kind.OVERVIEW_REPLY, encode_reply(replace(own, number=number)))
            elif notice.kind == Kind.OVERVIEW_REPLY:
                reply = decode_reply(notice.payload)
                if reply.number == self._number and notice.address in self._missing:
                    self._found[notice.address] = reply
                    self._missing.remove(notice.address)
                    if not self._missing:
                        self._complete.set()
