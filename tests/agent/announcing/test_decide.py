# SPDX-License-Identifier: Apache-2.0
"""Orders, damping and what they make of a route; orders on the disk. Time is an argument."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from agent.announcing import order_file as file
from agent.announcing.announcer import UNREAD, Announcer
from agent.announcing.decide import (
    FIRST_HOLD_S,
    FORGIVEN_S,
    GRACEFUL_SHUTDOWN,
    LAST_HOLD_S,
    MED,
    PREPEND,
    FlapRecord,
    Order,
    OrderKind,
    after_flap,
    announcing_nodes,
    decide,
    duration,
    in_force,
    is_fault,
    order_for,
    with_drain_attributes,
    with_orders,
    without_orders,
)
from agent.announcing.export_status import ExportStatus
from agent.config.file import parse
from agent.config.schema import Config
from agent.model import Announcement, Member, Method, Share, State
from agent.node.plan import Condition
from bgp.route import Route

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
xdp: {mode: "off"}
"""
VIP, OTHER = IPv4Address("192.0.2.10"), IPv6Address("2001:db8:99::1")
A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))
HEALTHY, SICK = Announcement(True, "healthy"), Announcement(False, "unhealthy: web", fault=True)
WALL = 1_700_000_000.0  # 2023-11-14 22:13:20Z


def order(kind: OrderKind = OrderKind.DOWN, method: Method = Method.WITHDRAW, until: float | None = None) -> Order:
    return Order(VIP, kind, method, "new kernel", WALL, until)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h", 3600), ("2d", 172_800), ("1d1h1m1s", 90_061)],
)
def test_duration(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "h", "1.5h", "-1h", "30m1h", "1h 30m", "1H", "0s", "0h0m", "9999999s", "\u0661s"]
)
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|no time"):
        duration(text)


@pytest.mark.parametrize(
    ("base", "standing", "expected"),
    [
        (HEALTHY, None, HEALTHY),
        (SICK, None, SICK),
        (HEALTHY, order(), Announcement(False, "withdrawn by the operator: new kernel")),
        (SICK, order(), Announcement(False, "withdrawn by the operator: new kernel")),
        (
            HEALTHY,
            replace(order(until=WALL + 3600), reason=""),
            Announcement(False, "withdrawn by the operator until 2023-11-14 23:13:20Z"),
        ),
        (
            HEALTHY,
            order(OrderKind.DRAIN),
            Announcement(False, "drained by the operator (withdraw): new kernel"),
        ),
        (
            HEALTHY,
            order(OrderKind.DRAIN, Method.PREPEND),
            Announcement(True, "drained by the operator (prepend): new kernel", method=Method.PREPEND),
        ),
        (SICK, order(OrderKind.DRAIN, Method.MED), SICK),
    ],
)
def test_what_an_order_makes_of_a_vip(base: Announcement, standing: Order | None, expected: Announcement) -> None:
    assert decide(base, standing, None, 0.0) == expected


def test_an_order_takes_the_place_of_its_like_only() -> None:
    drain = order(OrderKind.DRAIN, Method.MED)
    orders = with_orders(with_orders(frozenset(), [order()]), [drain])
    assert orders == {order(), drain}
    again = order(until=WALL + 5)
    assert with_orders(orders, [again]) == {again, drain}
    assert with_orders(orders, [replace(order(), vip=OTHER)]) == {order(), drain, replace(order(), vip=OTHER)}


def test_down_is_stronger_than_a_drain_which_stands_when_it_is_lifted() -> None:
    drain = order(OrderKind.DRAIN, Method.MED)
    orders = frozenset({order(), drain, replace(drain, vip=OTHER)})
    assert order_for(orders, VIP) == order()
    assert order_for(without_orders(orders, [VIP], OrderKind.DOWN), VIP) == drain
    assert order_for(without_orders(orders, [VIP], OrderKind.DRAIN), VIP) == order()
    assert order_for(without_orders(orders, [VIP], OrderKind.DRAIN), OTHER) is not None
    assert order_for(orders, IPv4Address("192.0.2.99")) is None


def test_an_order_ends_by_itself() -> None:
    orders = frozenset({order(until=WALL + 60), order(OrderKind.DRAIN)})
    assert in_force(orders, WALL + 59.9) == orders
    assert in_force(orders, WALL + 60) == {order(OrderKind.DRAIN)}


def test_routes_are_dressed() -> None:
    route = Route.of("192.0.2.10/32", "10.0.0.11", communities=[(65000, 1)], med=5, prepend=1)
    assert with_drain_attributes(route, None) == route
    assert with_drain_attributes(route, Method.PREPEND) == replace(route, prepend=1 + PREPEND)
    assert with_drain_attributes(route, Method.MED) == replace(route, med=MED)
    assert with_drain_attributes(route, Method.GSHUT) == replace(route, communities=((65000, 1), GRACEFUL_SHUTDOWN))
    assert with_drain_attributes(with_drain_attributes(route, Method.GSHUT), Method.GSHUT) == with_drain_attributes(
        route, Method.GSHUT
    )
    for method in (Method.PREPEND, Method.MED, Method.GSHUT):
        changed = with_drain_attributes(route, method)
        assert Route.of(*(getattr(changed, name) for name in Route.__slots__)) == changed, "canonical"
    full = replace(route, prepend=16)
    assert with_drain_attributes(full, Method.PREPEND).prepend == 16, "as far as ExaBGP goes"


def test_a_fall_is_by_a_fault_alone() -> None:
    assert is_fault(HEALTHY, SICK)
    assert not is_fault(None, SICK)
    assert not is_fault(SICK, SICK)
    assert not is_fault(SICK, HEALTHY)
    assert not is_fault(HEALTHY, decide(HEALTHY, order(), None, 0.0))


def test_each_fall_in_a_row_is_held_longer_and_the_first_after_a_time_is_not() -> None:
    falls, now, holds = None, 100.0, []
    for _ in range(8):
        falls = after_flap(falls, now)
        holds.append(falls.hold_s)
        now += falls.hold_s + 1
    assert holds == [2, 4, 8, 16, 32, 60, 60, 60]
    assert holds[0] == FIRST_HOLD_S
    assert holds[-1] == LAST_HOLD_S
    assert falls is not None
    assert falls.count == 8
    assert after_flap(falls, falls.at + falls.hold_s + FORGIVEN_S - 1).count == 9
    assert after_flap(falls, falls.at + falls.hold_s + FORGIVEN_S) == FlapRecord(falls.at + 360, FIRST_HOLD_S, 1)


def test_a_vip_that_fell_is_held_back_but_never_kept_up() -> None:
    falls = FlapRecord(100.0, 8.0, 3)
    held = decide(HEALTHY, None, falls, 107.9)
    assert held == Announcement(
        False, "held back for 8 s after 3 falls in a row; `lbctl announce up` ends it", fault=True
    )
    assert decide(HEALTHY, None, falls, 108.0) == HEALTHY
    assert decide(SICK, None, falls, 107.9) == SICK
    assert decide(HEALTHY, order(), falls, 107.9).why.startswith("withdrawn by the operator")
    assert not decide(HEALTHY, order(OrderKind.DRAIN, Method.MED), falls, 107.9).wanted


def config() -> Config:
    return parse(TEXT, "lb.yml")


def condition(healthy: bool = True) -> Condition:
    return Condition(forwarding=True, healthy={"web": healthy}, begun=frozenset({VIP}))


def test_a_flapping_service_changes_the_route_ever_less_often(tmp_path: Path) -> None:
    """Up and down each second for a minute: without damping 30 changes each way."""
    announcer = Announcer(config(), tmp_path / "orders.json", {}, ())
    announcer.decide(condition(), (), 0.0, WALL)
    ups, before = 0, True
    for tick in range(1, 61):
        announcer.decide(condition(tick % 2 == 0), (), float(tick), WALL)
        now = announcer.announcements[VIP].wanted
        assert not (now and tick % 2), "a withdrawal is never delayed"
        ups, before = ups + (now and not before), now
    assert ups == 4
    assert announcer.falls[VIP].count == 5
    # A successor is as patient, and an operator can end it.
    successor = Announcer(config(), tmp_path / "orders.json", announcer.falls, ())
    successor.decide(condition(), (), 61.0, WALL)
    assert not successor.announcements[VIP].wanted
    successor.lift([VIP], OrderKind.DOWN)
    successor.decide(condition(), (), 61.0, WALL)
    assert successor.announcements[VIP].wanted


def test_orders_outlive_the_agent_and_end_while_none_runs(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "orders.json"
    first = Announcer(config(), path, {}, ())
    first.give([order(until=WALL + 60), order(OrderKind.DRAIN, Method.PREPEND)])
    first.decide(condition(), (), 0.0, WALL + 1)
    assert not first.announcements[VIP].wanted
    second = Announcer(config(), path, {}, ())
    second.decide(condition(), (), 0.0, WALL + 59)
    assert not second.announcements[VIP].wanted
    third = Announcer(config(), path, {}, ())
    third.decide(condition(), (), 0.0, WALL + 61)
    assert third.announcements[VIP].method is Method.PREPEND
    assert file.load(path) == {order(OrderKind.DRAIN, Method.PREPEND)}
    third.lift([VIP], OrderKind.DRAIN)
    assert file.load(path) == frozenset()


def test_orders_on_the_disk_come_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    orders = frozenset({order(), replace(order(OrderKind.DRAIN, Method.GSHUT, WALL + 9.5), vip=OTHER, reason="ä")})
    file.save(path, orders)
    assert file.load(path) == orders
    assert [found.name for found in tmp_path.iterdir()] == ["orders.json"]
    assert file.load(tmp_path / "none.json") == frozenset()


@pytest.mark.parametrize("key", ["vip", "kind", "method", "since", "until"])
@pytest.mark.parametrize("value", [{}, [1], "x"])
def test_orders_that_cannot_be_read_are_told(
    tmp_path: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orders.json"
    file.save(path, [order()])
    path.write_text(json.dumps([json.loads(path.read_text())[0] | {key: value}]))
    assert file.load(path) == frozenset()
    assert "give the orders again" in caplog.text


def test_orders_of_a_full_disk_hold_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("in the way")
    announcer = Announcer(config(), tmp_path / "lib" / "orders.json", {}, ())
    announcer.give([order()])
    assert announcer.unkept is not None
    announcer.decide(condition(), (), 0.0, WALL)
    assert not announcer.announcements[VIP].wanted
    (tmp_path / "lib").unlink()
    announcer.decide(condition(), (), 0.0, WALL)
    assert announcer.unkept is None
    assert file.load(tmp_path / "lib" / "orders.json") == {order()}


def test_who_else_announces() -> None:
    def member(address: IPv4Address, state: State = State.UP, announced: bool = True, lost: bool = False) -> Member:
        return Member(address, 1, {5: Share(100, 100, state, announced)}, lost, 0.0, "")

    def found(*members: Member) -> tuple[IPv4Address, ...]:
        return announcing_nodes(members, [5, 6])

    assert found(member(A), member(B, announced=False), member(C)) == (A, C)
    assert found(member(A, lost=True), member(B, State.LEFT)) == ()
    # Drained for its connections' sake, but its packets still come in by it.
    assert found(member(A, State.DRAINING)) == (A,)
    assert announcing_nodes([member(A)], [6]) == ()


def test_a_watcher_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    announcer = Announcer(config(), tmp_path / "orders.json", {}, ())
    with announcer.watched() as slow, announcer.watched() as quick:
        for number in range(UNREAD + 2):
            standing = ExportStatus("192.0.2.10", "10.0.0.1", "announced", "yes", "up", str(number))
            announcer.observe([standing], WALL)
            entry = quick.get_nowait()
            assert entry is not None
            assert entry.standing == standing
        read = [slow.get_nowait() for _ in range(slow.qsize())]
    assert len(read) == UNREAD
    assert read[-1] is None
    assert None not in read[:-1]
