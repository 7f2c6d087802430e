# SPDX-License-Identifier: Apache-2.0
"""One monitor, several tables: each table gets the next hops of its own addresses, also those another one knew."""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.address import Address
from agent.forwarding import hop_keeper
from agent.forwarding.hop_keeper import HopKeeper
from agent.forwarding.next_hop import NextHop

A, B = IPv4Address("10.0.0.11"), IPv4Address("10.9.0.11")
HOP = NextHop(b"\2\0\0\0\0\1")


class Table:
    def __init__(self, **known: NextHop) -> None:
        self.hops: dict[Address, NextHop] = {}

    def set_hop(self, target: Address, hop: NextHop) -> None:
        self.hops[target] = hop

    def known_hop(self, target: Address) -> NextHop | None:
        return self.hops.get(target)


class Monitor:
    followed: frozenset[Address] = frozenset()

    def __init__(self, _netlink: object, _uplinks: object, on_hop: Callable[..., None], *_: object) -> None:
        self.on_hop = on_hop
        Monitor.last = self  # type: ignore[attr-defined]

    def follow(self, addresses: frozenset[Address], _known: object) -> None:
        self.followed = addresses


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> HopKeeper:
    monkeypatch.setattr(hop_keeper, "RouteMonitor", Monitor)
    nothing: Any = None
    return HopKeeper(nothing, (), nothing, nothing)


def test_tables_share_one_monitor(keeper: HopKeeper) -> None:
    nodes, nat = Table(), Table()
    monitor = Monitor.last  # type: ignore[attr-defined]
    keeper.follow(nodes, {A})
    monitor.on_hop(A, HOP)
    keeper.follow(nat, {A, B})
    assert monitor.followed == {A, B}
    assert nat.hops == {A: HOP}, "what another table knows is no change for the monitor"
    monitor.on_hop(B, HOP)
    assert (nodes.hops, nat.hops) == ({A: HOP}, {A: HOP, B: HOP})
    keeper.follow(nodes, set())
    keeper.follow(nat, {A})
    assert monitor.followed == {A}
    monitor.on_hop(B, NextHop(None))
    assert nat.hops[B] == HOP
