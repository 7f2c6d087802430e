# SPDX-License-Identifier: Apache-2.0
"""Export status from what is desired and the relay's snapshot."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from agent.address import Address
from agent.announcing.export_status import (
    ExportHistory,
    ExportStatus,
    StatusEntry,
    export_statuses,
)
from agent.announcing.routes import with_drain_attributes
from agent.config.file import parse
from agent.model import Announcement, Method
from bgp.relay.protocol import Peer, Snapshot
from bgp.route import Route

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2}
  - {name: six, vip: "2001:db8:99::1", protocol: tcp, port: 443, forward: l2}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000, families: [ipv4, ipv6]}
    - {address: 10.0.0.2, as: 65002, local_as: 65009}
members: {allow: [10.0.0.0/24]}
"""
CONFIG = parse(TEXT, "lb.yml")
FOUR, SIX = IPv4Address("192.0.2.10"), IPv6Address("2001:db8:99::1")
HEALTHY, DOWN = Announcement(True, "healthy"), Announcement(False, "withdrawn by the operator")
SICK = Announcement(False, "unhealthy: web", fault=True)
BOTH = frozenset({"ipv4", "ipv6"})


def route(vip: Address, method: Method | None = None) -> Route:
    return with_drain_attributes(
        Route.of(f"{vip}/{vip.max_prefixlen}", "10.0.0.11" if vip.version == 4 else "2001:db8::11"), method
    )


def peer(address: str, *out: Route, up: bool = True, families: frozenset[str] = BOTH) -> Peer:
    return Peer(address, up, 1.0, True, (), out, families=families)


def found(
    announcements: dict[Address, Announcement], *peers: Peer, away: bool = False
) -> list[tuple[str, str, str, str, str]]:
    desired = {f"{vip}/{vip.max_prefixlen}": route(vip, a.method) for vip, a in announcements.items() if a.wanted}
    seen = export_statuses(CONFIG, announcements, desired, None if away else Snapshot(peers))
    return [(s.vip, s.peer, s.desired, s.out, s.session) for s in seen]


def test_each_vip_has_a_status_at_each_peer_of_its_family() -> None:
    both = {FOUR: HEALTHY, SIX: HEALTHY}
    sent = [route(vip).for_neighbor(65001, 65000, "") for vip in (FOUR, SIX)]
    assert found(both, peer("10.0.0.1", *sent), peer("10.0.0.2", up=False)) == [
        ("192.0.2.10", "10.0.0.1", "announced", "yes", "up"),
        ("192.0.2.10", "10.0.0.2", "announced", "no", "down"),
        ("2001:db8:99::1", "10.0.0.1", "announced", "yes", "up"),
    ]
    assert {row[3:] for row in found(both, away=True)} == {("unknown", "unknown")}
    assert {row[3:] for row in found(both)} == {("no", "down")}, "ExaBGP knows no such neighbor"


def test_pool_has_a_status_as_a_vip_has() -> None:
    pool = IPv4Network("10.255.0.0/27")
    desired = Route.of(str(pool), "10.0.0.11")
    peers = Snapshot((peer("10.0.0.1", desired.for_neighbor(65001, 65000, "")), peer("10.0.0.2")))
    rows = export_statuses(CONFIG, {pool: HEALTHY}, {str(pool): desired}, peers)
    assert [(s.vip, s.peer, s.desired, s.out) for s in rows] == [
        ("10.255.0.0/27", "10.0.0.1", "announced", "yes"),
        ("10.255.0.0/27", "10.0.0.2", "announced", "no"),
    ]


def test_family_that_the_router_did_not_negotiate() -> None:
    sent = [route(vip).for_neighbor(65001, 65000, "") for vip in (FOUR, SIX)]
    rows = found({FOUR: HEALTHY, SIX: HEALTHY}, peer("10.0.0.1", *sent, families=frozenset({"ipv4"})))
    assert [(row[0], row[3]) for row in rows if row[1] == "10.0.0.1"] == [
        ("192.0.2.10", "yes"),
        ("2001:db8:99::1", "not negotiated"),
    ]


@pytest.mark.parametrize("method", [Method.PREPEND, Method.MED, Method.GSHUT])
def test_drain_attributes_must_be_in_the_adj_rib_out(method: Method) -> None:
    """What each peer receives differs: the own AS that is prepended."""
    here: dict[Address, Announcement] = {FOUR: replace(HEALTHY, method=method)}
    plain, drained = route(FOUR), route(FOUR, method)
    assert [row[2:4] for row in found(here, peer("10.0.0.1", plain), peer("10.0.0.2", plain))] == [
        (method, "different"),
        (method, "different"),
    ]
    one, two = drained.for_neighbor(65001, 65000, ""), drained.for_neighbor(65009, 65002, "")
    assert [row[3] for row in found(here, peer("10.0.0.1", one), peer("10.0.0.2", two))] == ["yes", "yes"]
    if method is Method.PREPEND:
        assert [row[3] for row in found(here, peer("10.0.0.1", two), peer("10.0.0.2", one))] == ["different"] * 2


def test_withdrawn_vip_must_not_be_in_the_adj_rib_out() -> None:
    here: dict[Address, Announcement] = {FOUR: DOWN}
    rows = found(here, peer("10.0.0.1", route(FOUR)), peer("10.0.0.2"))
    assert [row[2:4] for row in rows] == [("withdrawn", "yes"), ("withdrawn", "no")]


ROW = ExportStatus("192.0.2.10", "10.0.0.1", "announced", "yes", "up", "healthy")


def test_since_changes_with_the_state_and_not_with_the_reason() -> None:
    history = ExportHistory()
    assert history.observe([ROW], 10) == [StatusEntry(ROW, 10)]
    assert history.observe([ROW], 20) == []
    why = replace(ROW, why="forwarding for web")
    assert history.observe([why], 30) == [StatusEntry(why, 10)]
    down = replace(why, desired="withdrawn")
    assert history.observe([down], 40) == [StatusEntry(down, 40)]
    # The next agent continues from there; an entry that is no longer configured is forgotten.
    successor = ExportHistory(map(StatusEntry.from_json, [entry.to_json() for entry in history.entries]))
    assert successor.observe([down], 50) == []
    assert successor.entries == (StatusEntry(down, 40),)
    assert successor.observe([], 60) == []
    assert successor.entries == ()
