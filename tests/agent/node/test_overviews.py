# SPDX-License-Identifier: Apache-2.0
"""Nodes that ask each other for an overview: who is asked how often, what is repeated, and which replies count."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from agent.channel.event import Notice
from agent.channel.message import Kind
from agent.channel.overview import Overview, encode_reply, encode_request
from agent.model import State
from agent.node import overviews
from agent.node.overviews import ATTEMPTS, BATCH, Overviews

A, B, C = NODES = tuple(IPv4Address("10.0.0.11") + i for i in range(3))
Fate = Callable[[Notice, IPv4Address], bool]


@dataclass
class Cluster:
    """Nodes whose notices arrive at once, unless `arrives` (notice, destination) is false."""

    arrives: Fate = lambda notice, to: True
    sent: list[tuple[IPv4Address, int]] = field(default_factory=list)
    looks: list[IPv4Address] = field(default_factory=list)
    nodes: Collection[IPv4Address] = NODES

    def __post_init__(self) -> None:
        self.overviews = {node: self._overviews(node) for node in self.nodes}

    def _overviews(self, own: IPv4Address) -> Overviews:
        def send(to: IPv4Address, kind: int, payload: bytes) -> None:
            notice = Notice(own, kind, payload)
            self.sent.append((to, kind))
            if to in self.overviews and self.arrives(notice, to):
                asyncio.get_running_loop().call_soon(self.overviews[to].receive, notice)

        def look() -> Overview:
            self.looks.append(own)
            return Overview(0, State.UP, "ok", 1, epoch=int(own) & 0xFF)

        made = Overviews(send)
        made.look = look
        return made

    def collect(self, own: IPv4Address, nodes: Collection[IPv4Address]) -> Mapping[IPv4Address, Overview]:
        async def once() -> Mapping[IPv4Address, Overview]:
            async with asyncio.timeout(60):
                return await self.overviews[own].collect(nodes)

        return asyncio.run(once())


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "ATTEMPT_S", 0.01)
    monkeypatch.setattr(overviews, "BATCH_S", 0.0001)


def test_each_node_answers_for_itself() -> None:
    cluster = Cluster()
    found = cluster.collect(A, (B, C))
    assert {node: one.epoch for node, one in found.items()} == {B: 12, C: 13}
    assert sorted(cluster.sent) == sorted(
        [(B, Kind.OVERVIEW_REQUEST), (C, Kind.OVERVIEW_REQUEST), (A, Kind.OVERVIEW_REPLY), (A, Kind.OVERVIEW_REPLY)]
    )


def test_only_who_does_not_answer_is_asked_again_and_is_missing_in_the_end() -> None:
    cluster = Cluster(arrives=lambda notice, to: to != C)
    assert list(cluster.collect(A, (B, C))) == [B]
    assert cluster.sent.count((B, Kind.OVERVIEW_REQUEST)) == 1
    assert cluster.sent.count((C, Kind.OVERVIEW_REQUEST)) == ATTEMPTS


def test_a_lost_notice_is_repeated() -> None:
    lost = [True, True]
    cluster = Cluster(arrives=lambda notice, to: to != C or not lost or not lost.pop())
    assert set(cluster.collect(A, (B, C))) == {B, C}


def test_a_thousand_nodes_are_asked_in_batches() -> None:
    nodes = [A + i for i in range(1_000)]
    cluster = Cluster(nodes=nodes)
    most = []
    pending = 0

    def arrives(notice: Notice, to: IPv4Address) -> bool:
        nonlocal pending
        pending += 1 if notice.kind == Kind.OVERVIEW_REQUEST else -1
        most.append(pending)
        return True

    cluster.arrives = arrives
    assert len(cluster.collect(A, nodes[1:])) == 999
    assert max(most) <= BATCH


def test_however_many_ask_a_node_asks_and_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "FRESH_S", 60.0)
    cluster = Cluster()

    async def all_at_once() -> list[Mapping[IPv4Address, Overview]]:
        return await asyncio.gather(*(cluster.overviews[A].collect((B,)) for _ in range(5)))

    assert [list(found) for found in asyncio.run(all_at_once())] == [[B]] * 5
    assert cluster.sent.count((B, Kind.OVERVIEW_REQUEST)) == 1
    cluster.collect(C, (B,))
    assert cluster.looks == [B], "the second answer is the look of the first"


def test_later_it_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "FRESH_S", 0.0)
    cluster = Cluster()

    async def twice() -> None:
        for _ in range(2):
            await cluster.overviews[A].collect((B,))

    asyncio.run(twice())
    assert cluster.looks == [B, B]


def test_replies_that_nobody_asked_for_or_that_are_no_replies_change_nothing() -> None:
    cluster = Cluster(arrives=lambda notice, to: False)
    asker = cluster.overviews[A]

    async def collect() -> Mapping[IPv4Address, Overview]:
        collecting = asyncio.create_task(asker.collect((B,)))
        await asyncio.sleep(0)
        reply = encode_reply(Overview(1, State.UP, "ok", 1))
        other = encode_reply(Overview(2, State.UP, "ok", 1))
        for notice in (
            Notice(C, Kind.OVERVIEW_REPLY, reply),
            Notice(B, Kind.OVERVIEW_REPLY, other),
            Notice(B, Kind.OVERVIEW_REPLY, reply[:-1]),
            Notice(B, Kind.TRACE_REPLY, reply),
        ):
            asker.receive(notice)
        return await collecting

    assert asyncio.run(collect()) == {}
    asker.receive(Notice(B, Kind.OVERVIEW_REPLY, encode_reply(Overview(1, State.UP, "ok", 1))))  # too late


def test_without_a_verdict_nothing_is_answered() -> None:
    sent: list[bytes] = []
    one = Overviews(lambda to, kind, payload: sent.append(payload))
    one.receive(Notice(B, Kind.OVERVIEW_REQUEST, encode_request(1)))
    one.receive(Notice(B, Kind.OVERVIEW_REQUEST, b"cut"))
    assert (sent, one.own()) == ([], None)
