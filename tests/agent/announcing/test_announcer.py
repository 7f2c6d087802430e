# SPDX-License-Identifier: Apache-2.0
"""The announcer over time: flapping, orders across agents, a disk that fails, watchers. Time is an argument."""

from ipaddress import IPv4Address
from pathlib import Path

from agent.address import Address
from agent.announcing import order_file
from agent.announcing.announcer import MAX_UNREAD, Announcer
from agent.announcing.export_status import ExportStatus
from agent.announcing.order import Order, OrderKind
from agent.config.file import parse
from agent.config.schema import Config
from agent.model import Announcement, Method

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443, forward: l2}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
xdp: {mode: "off"}
"""
VIP = IPv4Address("192.0.2.10")
HEALTHY, SICK = Announcement(True, "healthy"), Announcement(False, "unhealthy: web", fault=True)
WALL = 1_700_000_000.0  # 2023-11-14 22:13:20Z


def order(kind: OrderKind = OrderKind.DOWN, method: Method = Method.WITHDRAW, until: float | None = None) -> Order:
    return Order(VIP, kind, method, "new kernel", WALL, until)


def config() -> Config:
    return parse(TEXT, "lb.yml")


def allowed(healthy: bool = True) -> dict[Address, Announcement]:
    return {VIP: HEALTHY if healthy else SICK}


def test_flapping_service_changes_the_route_less_and_less_often(tmp_path: Path) -> None:
    """The service goes up and down each second for a minute: without hold-down that is 30 announcements."""
    announcer = Announcer(config(), tmp_path / "orders.json", {}, ())
    announcer.decide(allowed(), 0.0, WALL)
    ups, before = 0, True
    for tick in range(1, 61):
        announcer.decide(allowed(tick % 2 == 0), float(tick), WALL)
        now = announcer.announcements[VIP].wanted
        assert not (now and tick % 2), "a withdrawal is never delayed"
        ups, before = ups + (now and not before), now
    assert ups == 4
    assert announcer.flaps[VIP].count == 5
    # The next agent continues the hold-down, and an operator can end it.
    successor = Announcer(config(), tmp_path / "orders.json", announcer.flaps, ())
    successor.decide(allowed(), 61.0, WALL)
    assert not successor.announcements[VIP].wanted
    successor.remove_orders([VIP], OrderKind.DOWN)
    successor.decide(allowed(), 61.0, WALL)
    assert successor.announcements[VIP].wanted


def test_orders_outlive_the_agent_and_expire_while_none_runs(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "orders.json"
    first = Announcer(config(), path, {}, ())
    first.add_orders([order(until=WALL + 60), order(OrderKind.DRAIN, Method.PREPEND)])
    first.decide(allowed(), 0.0, WALL + 1)
    assert not first.announcements[VIP].wanted
    second = Announcer(config(), path, {}, ())
    second.decide(allowed(), 0.0, WALL + 59)
    assert not second.announcements[VIP].wanted
    third = Announcer(config(), path, {}, ())
    third.decide(allowed(), 0.0, WALL + 61)
    assert third.announcements[VIP].method is Method.PREPEND
    assert order_file.load(path) == {order(OrderKind.DRAIN, Method.PREPEND)}
    third.remove_orders([VIP], OrderKind.DRAIN)
    assert order_file.load(path) == frozenset()


def test_orders_apply_when_they_cannot_be_saved_and_the_error_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("in the way")
    announcer = Announcer(config(), tmp_path / "lib" / "orders.json", {}, ())
    announcer.add_orders([order()])
    assert announcer.save_error is not None
    announcer.decide(allowed(), 0.0, WALL)
    assert not announcer.announcements[VIP].wanted
    (tmp_path / "lib").unlink()
    announcer.decide(allowed(), 0.0, WALL)
    assert announcer.save_error is None
    assert order_file.load(tmp_path / "lib" / "orders.json") == {order()}


def test_watcher_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    announcer = Announcer(config(), tmp_path / "orders.json", {}, ())
    with announcer.watch() as slow, announcer.watch() as quick:
        for number in range(MAX_UNREAD + 2):
            status = ExportStatus("192.0.2.10", "10.0.0.1", "announced", "yes", "up", str(number))
            announcer.observe([status], WALL)
            entry = quick.get_nowait()
            assert entry is not None
            assert entry.status == status
        read = [slow.get_nowait() for _ in range(slow.qsize())]
    assert len(read) == MAX_UNREAD
    assert read[-1] is None
    assert None not in read[:-1]
