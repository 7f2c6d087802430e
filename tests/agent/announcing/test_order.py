# SPDX-License-Identifier: Apache-2.0
"""Orders: precedence, expiry, and the file that keeps them."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from agent.announcing import order_file
from agent.announcing.order import (
    Order,
    OrderKind,
    in_force,
    order_for,
    with_orders,
    without_orders,
)
from agent.model import Method

VIP, OTHER = IPv4Address("192.0.2.10"), IPv6Address("2001:db8:99::1")
WALL = 1_700_000_000.0  # 2023-11-14 22:13:20Z


def order(kind: OrderKind = OrderKind.DOWN, method: Method = Method.WITHDRAW, until: float | None = None) -> Order:
    return Order(VIP, kind, method, "new kernel", WALL, until)


def test_new_order_replaces_only_the_order_of_its_vip_and_kind() -> None:
    drain = order(OrderKind.DRAIN, Method.MED)
    orders = with_orders(with_orders(frozenset(), [order()]), [drain])
    assert orders == {order(), drain}
    again = order(until=WALL + 5)
    assert with_orders(orders, [again]) == {again, drain}
    assert with_orders(orders, [replace(order(), vip=OTHER)]) == {order(), drain, replace(order(), vip=OTHER)}


def test_down_takes_precedence_over_drain_and_drain_applies_once_down_is_removed() -> None:
    drain = order(OrderKind.DRAIN, Method.MED)
    orders = frozenset({order(), drain, replace(drain, vip=OTHER)})
    assert order_for(orders, VIP) == order()
    assert order_for(without_orders(orders, [VIP], OrderKind.DOWN), VIP) == drain
    assert order_for(without_orders(orders, [VIP], OrderKind.DRAIN), VIP) == order()
    assert order_for(without_orders(orders, [VIP], OrderKind.DRAIN), OTHER) is not None
    assert order_for(orders, IPv4Address("192.0.2.99")) is None


def test_order_expires() -> None:
    orders = frozenset({order(until=WALL + 60), order(OrderKind.DRAIN)})
    assert in_force(orders, WALL + 59.9) == orders
    assert in_force(orders, WALL + 60) == {order(OrderKind.DRAIN)}


# The file


def test_saved_orders_load_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    orders = frozenset({order(), replace(order(OrderKind.DRAIN, Method.GSHUT, WALL + 9.5), vip=OTHER, reason="ä")})
    order_file.save(path, orders)
    assert order_file.load(path) == orders
    assert [found.name for found in tmp_path.iterdir()] == ["orders.json"]
    assert order_file.load(tmp_path / "none.json") == frozenset()


@pytest.mark.parametrize("key", ["vip", "kind", "method", "since", "until"])
@pytest.mark.parametrize("value", [{}, [1], "x", 10**400, -1, float("inf"), 1e300, True, "\x1b[31m"])
def test_unreadable_order_file_is_logged(
    tmp_path: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orders.json"
    order_file.save(path, [order()])
    path.write_text(json.dumps([json.loads(path.read_text())[0] | {key: value}]))
    assert order_file.load(path) == frozenset()
    assert "give the orders again" in caplog.text
    assert "\x1b" not in caplog.text


def test_order_file_nested_without_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "orders.json"
    path.write_text("[" * 100_000)
    assert order_file.load(path) == frozenset()
    assert "is nested too deeply" in caplog.text


def test_order_file_and_folder_are_for_one_user(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "orders.json"
    path.parent.mkdir(mode=0o755)
    order_file.save(path, [order()])
    assert [one.stat().st_mode & 0o777 for one in (path.parent, path)] == [0o700, 0o600]
