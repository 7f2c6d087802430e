# SPDX-License-Identifier: Apache-2.0
"""Walks through a cluster of tracers: which nodes they ask, what is repeated, and where a walk ends."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest
from support.session_slots import CLIENT, VIP, Slots

from agent.channel.event import Notice
from agent.channel.message import Kind
from agent.channel.trace import TraceReply, TraceRequest, encode_reply, encode_request
from agent.forwarding.trace_step import FlowFacts, next_step
from agent.model import Flow, LocalSocket
from agent.node import tracer
from agent.node.tracer import ANSWERS_PER_S, ATTEMPTS, MAX_STEPS, Step, Tracer, reply_of
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.layout.session import WAYS

A, B, C, D = NODES = tuple(IPv4Address("10.0.0.11") + i for i in range(4))
FLOW = Flow("tcp", IPv4Address("192.0.2.7"), 41_000, IPv4Address("10.99.0.1"), 443)
FACTS = FlowFacts(
    epoch=5,
    chain=(A, B, C),
    up=True,
    grace=False,
    reachable=frozenset(NODES),
    silent=frozenset(),
    awaited=frozenset(),
    unmetered=1,
    drop_no_member=False,
)
Fate = Callable[[Notice, IPv4Address], bool]


@dataclass
class Cluster:
    """Nodes that agree on FACTS, and notices that arrive at once, unless `arrives` (notice, destination) is false."""

    sockets: dict[IPv4Address, LocalSocket] = field(default_factory=dict)
    facts: dict[IPv4Address, FlowFacts] = field(default_factory=dict)
    arrives: Fate = lambda notice, to: True
    sent: list[tuple[IPv4Address, int]] = field(default_factory=list)
    """Each notice's destination and kind."""

    def __post_init__(self) -> None:
        self.tracers = {node: self._tracer(node) for node in NODES}

    def _tracer(self, own: IPv4Address) -> Tracer:
        def send(to: IPv4Address, kind: int, payload: bytes) -> None:
            notice = Notice(own, kind, payload)
            self.sent.append((to, kind))
            if to in self.tracers and self.arrives(notice, to):
                asyncio.get_running_loop().call_soon(self.tracers[to].receive, notice, 0.0)

        def here(request: TraceRequest) -> TraceReply:
            return next_step(own, request, self.facts.get(own, FACTS), self.sockets.get(own, LocalSocket.NONE))

        return Tracer(own, send, here)

    def walk(self, own: IPv4Address, ingress: IPv4Address, opens: bool = False) -> list[Step]:
        return asyncio.run(_within(self.tracers[own].walk(FLOW, opens, ingress)))


async def _within(walk: Awaitable[list[Step]]) -> list[Step]:
    async with asyncio.timeout(60):
        return await walk


def events(steps: list[Step]) -> list[tuple[IPv4Address, int, str]]:
    return [(step.node, step.hop, step.reply.event if step.reply else "") for step in steps]


def test_a_packet_of_a_connection_ends_where_its_socket_is() -> None:
    cluster = Cluster({C: LocalSocket.CONNECTION})
    steps = cluster.walk(D, D)
    assert events(steps) == [
        (D, 0, "forward_first"),
        (A, 1, "forward_again"),
        (B, 2, "forward_again"),
        (C, 3, "deliver_socket"),
    ]
    assert [step.prev for step in steps] == [None, D, A, B]
    assert all(step.reply and step.reply.to == after.node for step, after in pairwise(steps))


def test_a_packet_of_nobody_ends_at_the_end_of_the_chain() -> None:
    assert events(Cluster().walk(D, D))[-1] == (C, 3, "deliver_chain_end")


def test_a_new_connection_ends_at_the_owner() -> None:
    assert events(Cluster().walk(D, D, opens=True)) == [(D, 0, "forward_first"), (A, 1, "deliver_owner")]


def test_a_walk_may_begin_at_another_node_and_lead_back_to_the_asker() -> None:
    cluster = Cluster({B: LocalSocket.CONNECTION})
    steps = cluster.walk(B, D)
    assert events(steps) == [(D, 0, "forward_first"), (A, 1, "forward_again"), (B, 2, "deliver_socket")]
    assert cluster.sent == [
        (D, Kind.TRACE_REQUEST),
        (B, Kind.TRACE_REPLY),
        (A, Kind.TRACE_REQUEST),
        (B, Kind.TRACE_REPLY),
    ]


def test_two_walks_at_once_do_not_mix() -> None:
    cluster = Cluster({B: LocalSocket.CONNECTION})

    async def both() -> tuple[list[Step], list[Step]]:
        asker = cluster.tracers[D]
        return await asyncio.gather(asker.walk(FLOW, False, A), asker.walk(FLOW, True, A))

    first, second = asyncio.run(both())
    assert events(first)[-1] == (B, 1, "deliver_socket")
    assert events(second) == [(A, 0, "deliver_owner")]


@pytest.mark.parametrize("lost", [Kind.TRACE_REQUEST, Kind.TRACE_REPLY])
def test_what_is_lost_is_asked_again(monkeypatch: pytest.MonkeyPatch, lost: Kind) -> None:
    monkeypatch.setattr(tracer, "ATTEMPT_S", 0.01)
    left = iter([True] * (ATTEMPTS - 1))
    cluster = Cluster(arrives=lambda notice, to: notice.kind != lost or not next(left, False))
    assert events(cluster.walk(D, A, opens=True)) == [(A, 0, "deliver_owner")]
    assert cluster.sent.count((A, Kind.TRACE_REQUEST)) == ATTEMPTS


def test_a_node_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "ATTEMPT_S", 0.01)
    cluster = Cluster(arrives=lambda notice, to: to != A)
    steps = cluster.walk(D, D)
    assert steps[-1] == Step(A, 1, D, None)
    assert events(steps) == [(D, 0, "forward_first"), (A, 1, "")]
    assert cluster.sent.count((A, Kind.TRACE_REQUEST)) == ATTEMPTS


def test_only_the_node_that_was_asked_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "ATTEMPT_S", 0.01)
    cluster = Cluster(arrives=lambda notice, to: to != A)
    forged = encode_reply(TraceReply(1, "deliver_owner"))

    async def walk() -> list[Step]:
        asker = cluster.tracers[D]
        asyncio.get_running_loop().call_soon(asker.receive, Notice(B, Kind.TRACE_REPLY, forged), 0.0)
        return await asker.walk(FLOW, True, A)

    assert asyncio.run(walk()) == [Step(A, 0, None, None)]


def test_a_circle_is_walked_for_so_many_steps_and_no_more() -> None:
    """No node's own rule would do that: each sends to the next, whatever the hop."""
    here = lambda to: lambda request: TraceReply(request.number, "forward_again", to, 1)  # noqa: E731
    cluster = Cluster()
    for node, to in ((A, B), (B, A)):
        cluster.tracers[node]._here = here(to)
    assert len(cluster.walk(D, A)) == MAX_STEPS


def test_a_node_answers_so_often_and_no_more() -> None:
    sent: list[bytes] = []
    one = Tracer(A, lambda to, kind, payload: sent.append(payload), lambda request: TraceReply(request.number, "x"))
    request = encode_request(TraceRequest(1, FLOW, opens=True))
    for _ in range(3 * ANSWERS_PER_S):
        one.receive(Notice(B, Kind.TRACE_REQUEST, request), 100.0)
    assert len(sent) == ANSWERS_PER_S
    one.receive(Notice(B, Kind.TRACE_REQUEST, request), 100.5)
    assert len(sent) == ANSWERS_PER_S + 1
    for _ in range(3 * ANSWERS_PER_S):
        one.receive(Notice(B, Kind.TRACE_REQUEST, request), 1000.0)
    assert len(sent) == 2 * ANSWERS_PER_S + 1


@pytest.mark.parametrize("kind", [Kind.TRACE_REQUEST, Kind.TRACE_REPLY, 200])
def test_what_cannot_be_read_is_not_answered(kind: int) -> None:
    sent: list[bytes] = []
    one = Tracer(A, lambda to, kind, payload: sent.append(payload), lambda request: TraceReply(request.number, "x"))
    one.receive(Notice(B, kind, b"nonsense"), 100.0)
    one.receive(Notice(B, Kind.TRACE_REPLY, encode_reply(TraceReply(1, "x"))), 100.0)
    assert sent == []


class BrokenMaps:
    """A data path on one interface, whose maps cannot be read."""

    def __init__(self, attached: bool) -> None:
        self.uplinks = [SimpleNamespace(ifindex=1)]
        self.attached = lambda: attached

    @property
    def maps(self) -> object:
        raise BpfError("the maps are gone")


def test_a_node_whose_program_decides_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    request = TraceRequest(3, FLOW, opens=True)
    monkeypatch.setattr(tracer, "find_socket", lambda flow, ifindex: LocalSocket.LISTENER)
    off = reply_of(A, None, (), request, 0)
    assert off == TraceReply(3, "no_data_path", socket=LocalSocket.LISTENER)
    detached, broken = (cast(DataPath, BrokenMaps(attached)) for attached in (False, True))
    assert reply_of(A, detached, (), request, 0) == replace(off, event="not_attached")
    assert reply_of(A, broken, (), request, 0) == replace(off, event="unreadable")


def test_a_kernel_that_cannot_be_asked_for_sockets_is_no_kernel_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(flow: Flow, ifindex: int) -> LocalSocket:
        raise OSError("the kernel has no tcp_diag")

    monkeypatch.setattr(tracer, "find_socket", fail)
    assert reply_of(A, None, (), TraceRequest(3, FLOW, opens=True), 0).socket is LocalSocket.UNKNOWN


def test_a_session_takes_the_place_of_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's socket for the flow, of whatever else has the VIP, does not count."""
    monkeypatch.setattr(tracer, "find_socket", lambda flow, ifindex: LocalSocket.CONNECTION)
    none = frozenset[IPv4Address]()
    facts = [FlowFacts(5, (A, B), True, False, none, none, none, 1, False, nat_rows=(7, 9))]
    monkeypatch.setattr(tracer, "read_facts", lambda *_: facts[-1])
    datapath = cast(DataPath, SimpleNamespace(uplinks=[SimpleNamespace(ifindex=1)], attached=lambda: True, maps=None))
    slots, request = Slots(), TraceRequest(3, replace(FLOW, vip=VIP, client=CLIENT), opens=False)

    def reply() -> tuple[str, LocalSocket]:
        found = reply_of(A, datapath, (), request, 0, slots.table)
        return found.event, found.socket

    assert reply() == ("reply_reset", LocalSocket.NONE)
    flow = request.flow
    slots.put(9 * WAYS + 3, client_port=flow.client_port, vip_port=flow.vip_port)
    assert reply() == ("forward_backend", LocalSocket.CONNECTION)
    facts.append(replace(facts[0], nat_rows=()))
    assert reply() == ("deliver_socket", LocalSocket.CONNECTION)
    assert reply_of(A, datapath, (), request, 0).socket is LocalSocket.CONNECTION
