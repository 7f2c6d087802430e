# SPDX-License-Identifier: Apache-2.0
"""The operator's orders across agents, and a disk that fails. Time is an argument."""

from ipaddress import IPv4Address
from pathlib import Path

from agent.announcing import order_file
from agent.announcing.order import Order, OrderKind
from agent.announcing.order_book import OrderBook
from agent.model import Method

VIP = IPv4Address("192.0.2.10")
WALL = 1_700_000_000.0  # 2023-11-14 22:13:20Z


def order(kind: OrderKind = OrderKind.DOWN, method: Method = Method.WITHDRAW, until: float | None = None) -> Order:
    return Order(VIP, kind, method, "new kernel", WALL, until)


def test_orders_outlive_the_agent_and_expire_while_none_runs(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "orders.json"
    down, drain = order(until=WALL + 60), order(OrderKind.DRAIN, Method.PREPEND)
    OrderBook(path, [VIP]).add([down, drain])
    second = OrderBook(path, [VIP])
    second.expire(WALL + 59)
    assert second.orders == {down, drain}
    third = OrderBook(path, [VIP])
    third.expire(WALL + 61)
    assert third.orders == order_file.load(path) == {drain}
    assert OrderBook(path, []).orders == frozenset(), "the VIP has left the configuration"
    third.remove([VIP], OrderKind.DRAIN)
    assert order_file.load(path) == frozenset()


def test_orders_apply_when_they_cannot_be_saved_and_the_error_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("in the way")
    book = OrderBook(tmp_path / "lib" / "orders.json", [VIP])
    book.add([order()])
    assert book.save_error is not None
    book.expire(WALL)
    assert book.orders == {order()}
    (tmp_path / "lib").unlink()
    book.expire(WALL)
    assert book.save_error is None
    assert order_file.load(tmp_path / "lib" / "orders.json") == {order()}
