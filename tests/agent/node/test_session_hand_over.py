# SPDX-License-Identifier: Apache-2.0
"""The hand-over on a node: what it asks and sends when rows change, what it takes of backends, how it leaves."""

import asyncio
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, ip_address
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.session_arrays import BACKEND, POOLS, SERVICE, SESSIONS, Arrays
from support.session_records import record

from agent.handover.item import Codec, Kind, Origin, Slots
from agent.handover.row_move import Chains
from agent.node import session_hand_over as module
from agent.node.session_hand_over import SessionHandOver, session_hand_over
from bpf.layout.nat import NAT_ROWS
from bpf.layout.session import SessionState

A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
CODEC = Codec(Slots(NAT_ROWS, {version: [Origin(pool, SESSIONS)] for version, pool in POOLS.items()}))


def chains(*nodes: IPv4Address) -> Chains:
    return np.tile(np.array([int(node) for node in nodes], np.uint32), (NAT_ROWS, 1))


class Node:
    """A keeper, and what it reads and calls; `sent` are the items that it sends, by node."""

    def __init__(self, own: IPv4Address = A, others: Iterable[IPv4Address] = (B,)) -> None:
        self.arrays, self.pulls = Arrays(), np.zeros(NAT_ROWS, np.uint64)
        self.sent: dict[IPv4Address, list[bytes]] = {}
        self.idle = True
        maps = SimpleNamespace(sessions=self.arrays.map, nat=SimpleNamespace(loads=self.arrays.loads, pulls=self.pulls))
        self.writer = SimpleNamespace(slot=lambda name: SERVICE, before_nat_rows=None)
        self.indexes = {(ip_address("10.1.0.100"), 8443): BACKEND}
        self.forwarder = SimpleNamespace(
            map_writer=self.writer,
            datapath=SimpleNamespace(maps=maps, has_sessions=True),
            nat=SimpleNamespace(indexes=self.indexes),
        )
        states = {other: SimpleNamespace(nat=SimpleNamespace()) for other in others}
        states[IPv4Address("10.0.0.99")] = SimpleNamespace(nat=None)
        self.membership = SimpleNamespace(
            own=own, stream=self._stream, is_idle=lambda _: self.idle, present_states=lambda: states, isolated=False
        )
        service = SimpleNamespace(name="web", vip=ip_address("10.1.0.200"), port_number=443, protocol="tcp")
        nat, pools = SimpleNamespace(sessions=SESSIONS), tuple(POOLS.values())
        config = cast(Any, SimpleNamespace(nat=nat, pools=pools, former_sessions=None, nat_services=((0, service),)))
        made = session_hand_over(config, cast(Any, self.forwarder), cast(Any, self.membership), None)
        assert made is not None
        self.keeper: SessionHandOver = made

    def _stream(self, node: IPv4Address, items: Iterable[bytes]) -> None:
        self.sent.setdefault(node, []).extend(items)

    def write(self, *nodes: IPv4Address) -> None:
        """Write chains, as the forwarder does."""
        cast(Any, self.writer).before_nat_rows(chains(*nodes))
        cast(Any, self.forwarder).after_tables()

    def kinds(self, node: IPv4Address = B) -> list[str]:
        return [type(CODEC.decode(one)).__name__ for one in self.sent.pop(node, [])]


def test_none_without_nat_and_without_a_data_path() -> None:
    config = cast(Any, SimpleNamespace(nat=None))
    assert session_hand_over(config, None, cast(Any, None), None) is None
    maps = SimpleNamespace(sessions=None, nat=None)
    forwarder = cast(Any, SimpleNamespace(datapath=SimpleNamespace(maps=maps)))
    assert session_hand_over(config, forwarder, cast(Any, None), None) is None


def test_it_asks_before_rows_are_written_and_sends_after() -> None:
    node = Node()
    cast(Any, node.writer).before_nat_rows(chains(A, B))
    assert node.kinds() == ["Pull"]
    assert (node.pulls > time.monotonic() * 1e9).all()
    cast(Any, node.forwarder).after_tables()
    node.arrays.store.write(record(7), 1)
    node.write(B, A)
    assert node.kinds() == ["Sessions"]
    assert node.sent == {}, "nothing to a node that does no NAT"


def test_what_arrives_is_written_at_once_with_the_backends_of_now() -> None:
    async def arrive(node: Node) -> None:
        for item in (*CODEC.sessions(record(7)), *CODEC.sessions(record(8))):
            cast(Any, node.membership).on_item(B, item)
        assert not node.arrays.tags.any()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    node = Node()
    asyncio.run(arrive(node))
    assert np.flatnonzero(node.arrays.tags).tolist() == [7, 8]
    assert node.keeper.counters["taken"] == 2
    assert node.keeper.problems() == ()
    node.indexes.clear()
    asyncio.run(_one(node, next(CODEC.sessions(record(9)))))
    assert node.arrays.store.used(np.ones(NAT_ROWS, np.bool_)).tolist() == [7, 8]
    assert node.arrays.state(9) is SessionState.RESERVED
    node.keeper._note_losses(time.monotonic())
    assert "give all nodes the same services and backends" in node.keeper.problems()[0]
    assert node.kinds() == ["Sessions"], "declined"


def test_what_arrives_waits_until_this_nodes_own_sessions_are_here() -> None:
    async def arrive(node: Node) -> None:
        node.forwarder.datapath.has_sessions = False
        await _one(node, next(CODEC.sessions(record(7))))
        await _one(node, CODEC.pull(3, np.ones(NAT_ROWS, np.bool_)))
        await asyncio.sleep(3 * module.RETRY_S)
        assert not node.arrays.tags.any()
        assert not node.sent
        node.arrays.store.write(record(8), 1)
        node.forwarder.datapath.has_sessions = True
        await asyncio.sleep(3 * module.RETRY_S)

    node = Node()
    asyncio.run(arrive(node))
    assert np.flatnonzero(node.arrays.tags).tolist() == [7, 8]
    assert node.kinds() == ["Sessions", "End"]


async def _one(node: Node, item: bytes) -> None:
    cast(Any, node.membership).on_item(B, item)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_items_that_cannot_be_read_are_a_problem_that_names_the_node() -> None:
    node = Node()
    other = Codec(Slots(NAT_ROWS, {4: [Origin(IPv4Network("10.254.0.0/31"), SESSIONS)]}))
    asyncio.run(_one(node, next(other.sessions(record()))))
    (line,) = node.keeper.problems()
    assert line.startswith("sessions of 10.0.0.12 are not taken: the pool is another one")
    (answer,) = node.sent.pop(B)
    assert cast(Any, other.decode(answer)).kind is Kind.DECLINED
    now = time.monotonic()
    node.keeper._note_losses(now)
    asyncio.run(_one(node, CODEC.end(1)))
    assert node.keeper.problems() == (line,), "what is taken does not show that all is"
    node.keeper._note_losses(now + 61)
    assert node.keeper.problems() == ()


def test_a_node_that_does_not_answer_for_long_is_a_problem_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    node.write(A, B)
    assert node.keeper.problems() == ()
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    node.keeper.exchange.await_answers(later)
    assert node.keeper.counters["unanswered"] == 1
    (line,) = node.keeper.problems()
    assert line.startswith("10.0.0.12 has not handed its sessions over")
    node.keeper.exchange.receive(int(B), [CODEC.end(1)], later)
    assert node.keeper.problems() == ()


@pytest.mark.parametrize("idle", [True, False])
def test_a_node_that_leaves_waits_until_others_have_its_sessions(idle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 0.3)
    monkeypatch.setattr(module, "IDLE_S", 0.1)

    async def leave(node: Node) -> float:
        start = time.monotonic()
        leaving = asyncio.create_task(node.keeper.leave())
        await asyncio.sleep(0)
        await _one(node, CODEC.pull(3, np.ones(NAT_ROWS, np.bool_)))
        await leaving
        return time.monotonic() - start

    node = Node()
    node.write(A, B)
    node.kinds()
    node.arrays.store.write(record(7), 1)
    node.idle = idle
    took_s = asyncio.run(leave(node))
    assert node.kinds() == ["Sessions", "End"]
    assert took_s >= (0.1 if idle else 0.3)


def test_a_node_that_was_cut_off_asks_for_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANGING_S", 0.01)

    async def rounds(node: Node) -> None:
        running = asyncio.create_task(node.keeper.tasks()[0])
        for isolated in (True, False):
            node.membership.isolated = isolated
            await asyncio.sleep(0.05)
        running.cancel()

    node = Node()
    node.write(A, B)
    assert node.kinds() == ["Pull"]
    asyncio.run(rounds(node))
    assert node.kinds() == ["Pull"]
