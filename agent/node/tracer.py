# SPDX-License-Identifier: Apache-2.0
"""The walk of a packet through the cluster: each node on it is asked what its program would do with the packet now.

The channel carries requests and replies as notices, which may be lost, so a request is repeated. A node answers for
itself alone; the asker goes on to the node that it names, until a node keeps or drops the packet, or does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from agent.address import Network
from agent.channel.event import Notice
from agent.channel.message import Kind
from agent.channel.trace import (
    TraceReply,
    TraceRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from agent.forwarding.flow_facts import read_facts
from agent.forwarding.trace_step import NO_DATA_PATH, NOT_ATTACHED, UNREADABLE, next_step
from agent.model import Flow, LocalSocket
from agent.netlink.sock_diag import find_socket
from agent.sessions.listing import find_one, slots_of_rows
from agent.sessions.selection import Selection
from agent.sessions.session_table import SessionTable
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.layout.limits import HOP_MAX

log = logging.getLogger("anylb")

MAX_STEPS: Final = HOP_MAX + 1
"""No packet is forwarded more than HOP_MAX times."""
ATTEMPTS: Final = 3
ATTEMPT_S: Final = 1 / 3
ANSWERS_PER_S: Final = 20
"""To all nodes together, and as many at once: an answer takes up to a millisecond."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a node that the packet reached does with it; `reply` None: the node does not answer."""

    node: IPv4Address
    hop: int
    prev: IPv4Address | None
    reply: TraceReply | None


class Tracer:
    """Asks other nodes for the steps of a walk, and answers them for this one.

    `send(address, kind, payload)` sends a notice; `here` is this node's own answer. `now` is CLOCK_MONOTONIC seconds.
    """

    def __init__(
        self,
        own: IPv4Address,
        send: Callable[[IPv4Address, int, bytes], object],
        here: Callable[[TraceRequest], TraceReply],
    ) -> None:
        self._own, self._send, self._here = own, send, here
        self._numbers = itertools.count(1)
        self._asked: dict[tuple[IPv4Address, int], asyncio.Future[TraceReply]] = {}
        self._answers, self._answered_at = float(ANSWERS_PER_S), float("-inf")
        """How many answers were left when the last request came, and when that was."""

    async def walk(self, flow: Flow, opens: bool, ingress: IPv4Address) -> list[Step]:
        """Return the steps of a packet that the router sends to a node."""
        steps: list[Step] = []
        node, request = ingress, TraceRequest(0, flow, opens)
        while len(steps) < MAX_STEPS:
            request = replace(request, number=next(self._numbers) & 0xFFFFFFFF)
            reply = self._here(request) if node == self._own else await self._ask(node, request)
            steps.append(Step(node, request.hop, request.prev, reply))
            if reply is None or reply.to is None:
                break
            in_grace = request.in_grace or (reply.grace and request.hop > 0 and not opens)
            node, request = reply.to, replace(request, hop=reply.hop, prev=node, in_grace=in_grace)
        return steps

    async def _ask(self, node: IPv4Address, request: TraceRequest) -> TraceReply | None:
        payload, key = encode_request(request), (node, request.number)
        self._asked[key] = answer = asyncio.get_running_loop().create_future()
        try:
            for _ in range(ATTEMPTS):
                self._send(node, Kind.TRACE_REQUEST, payload)
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(answer), ATTEMPT_S)
            return None
        finally:
            del self._asked[key]

    def receive(self, notice: Notice, now: float) -> None:
        """Take a notice of another node: answer a request, unless there were too many, or note a reply."""
        with contextlib.suppress(ValueError):  # of a later release, or wrong: as if it were lost
            if notice.kind == Kind.TRACE_REQUEST:
                request = decode_request(notice.payload)
                if self._may_answer(now):
                    self._send(notice.address, Kind.TRACE_REPLY, encode_reply(self._here(request)))
            elif notice.kind == Kind.TRACE_REPLY:
                reply = decode_reply(notice.payload)
                answer = self._asked.get((notice.address, reply.number))
                if answer is not None and not answer.done():
                    answer.set_result(reply)

    def _may_answer(self, now: float) -> bool:
        self._answers = min(ANSWERS_PER_S, self._answers + (now - self._answered_at) * ANSWERS_PER_S)
        self._answered_at = now
        if self._answers < 1:
            return False
        self._answers -= 1
        return True


def reply_of(
    own: IPv4Address,
    datapath: DataPath | None,
    denied: Iterable[Network],
    request: TraceRequest,
    now_ns: int,
    sessions: SessionTable | None = None,
) -> TraceReply:
    """Return what this node does with a packet, by its maps and the sockets of its kernel. `now_ns`: CLOCK_MONOTONIC.

    `datapath` is None with xdp.mode off, `sessions` without NAT.
    """
    try:
        socket = find_socket(request.flow, datapath.uplinks[0].ifindex if datapath else 0)
    except OSError as error:
        log.warning("%s", error)
        socket = LocalSocket.UNKNOWN
    if datapath is None:
        return TraceReply(request.number, NO_DATA_PATH, socket=socket)
    try:
        if not datapath.attached():
            return TraceReply(request.number, NOT_ATTACHED, socket=socket)
        facts = read_facts(datapath.maps, request.flow, now_ns)
        if facts is not None and facts.nat_rows:
            socket = _session(sessions, request.flow, facts.nat_rows)
        return next_step(own, request, facts, socket, denied)
    except (BpfError, OSError) as error:
        log.warning("%s", error)
        return TraceReply(request.number, UNREADABLE, socket=socket)


def _session(sessions: SessionTable | None, flow: Flow, rows: Iterable[int]) -> LocalSocket:
    """Return CONNECTION if the flow's session is here: it takes the place of a socket."""
    if sessions is None or find_one(sessions, Selection(flow=flow), slots_of_rows(sessions, rows)) is None:
        return LocalSocket.NONE
    return LocalSocket.CONNECTION
