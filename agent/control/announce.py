# SPDX-License-Identifier: Apache-2.0
"""Requests about announcements: their state, orders for them, and their changes as they happen.

    GET  /announce            each VIP's and pool's state at each peer, and faults
    GET  /announce/watch      each state on a line, then every change, without end
    POST /announce            remove the order `down`   ?vip=
    POST /withdraw            order `down`              ?vip= &reason= &for_s= &force=yes
    POST /announce/drain      order a drain             ?vip= &reason= &for_s= &force=yes &method=
    POST /announce/undrain    remove the drain          ?vip=

Without `vip` a request is for all VIPs of the node.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.address import Address, Announced, Network
from agent.announcing.alert import alerts
from agent.announcing.export_monitor import ExportMonitor
from agent.announcing.order import Order, OrderKind
from agent.control.bgp_session import down_text, sessions
from agent.control.http_server import Response, Routes, json_response
from agent.errors import AgentError
from agent.model import Announcement, Method
from agent.node.operator import Operator
from bgp.relay.client import RelayClient

MAX_REASON = 200
MAX_FOR_S = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Announcing:
    """What these requests read and change."""

    vips: tuple[Address, ...]
    operator: Operator
    exports: ExportMonitor
    relay: RelayClient
    announcements: Callable[[], Mapping[Address, Announcement]]
    """The decision for each VIP; none before the first plan."""
    pools: Callable[[], Mapping[Network, Announcement]] = dict
    """Likewise for each pool of NAT, which takes no orders."""
    path_problems: Callable[[], Sequence[str]] = tuple
    """What keeps packets of VIPs from clients, one line each."""


def routes(node: Announcing) -> Routes:
    """Return the handlers by method and path."""
    return {
        ("GET", "/announce"): lambda _: json_response(report(node, time.time())),
        ("GET", "/announce/watch"): lambda _: _watch(node),
        ("POST", "/announce"): lambda request: _remove_orders(node, OrderKind.DOWN, request.query),
        ("POST", "/withdraw"): lambda request: _add_orders(node, OrderKind.DOWN, request.query),
        ("POST", "/announce/drain"): lambda request: _add_orders(node, OrderKind.DRAIN, request.query),
        ("POST", "/announce/undrain"): lambda request: _remove_orders(node, OrderKind.DRAIN, request.query),
    }


def report(node: Announcing, wall: float) -> dict[str, Any]:
    """Return the state of this node's announcements; `wall` is the wall clock in seconds."""
    relay, orders, announcements, pools = node.relay, node.operator.orders, node.announcements(), node.pools()
    every = dict[Announced, Announcement]([*announcements.items(), *pools.items()])
    snapshot, peers = relay.snapshot, sessions(relay, time.monotonic())
    disconnected = None if relay.connected and snapshot else relay.error or "the relay has sent no snapshot yet"
    if disconnected is None and snapshot and snapshot.silent:
        disconnected = "ExaBGP does not answer the relay"
    down = [f"{peer['address']} {down_text(peer)}" for peer in peers if peer["state"] == "down"]
    error = snapshot.error if snapshot else None
    statuses = [entry.status for entry in node.exports.entries]
    faults = alerts(every, statuses, disconnected, error, down, node.path_problems())
    return {
        "relay": disconnected or "connected",
        "vips": [
            {
                "vip": str(vip),
                "wanted": announcement.wanted,
                "method": announcement.method,
                "why": announcement.why,
                "fault": announcement.fault,
                "others": [str(address) for address in node.operator.other_announcers(vip)],
                "orders": [_order(order) for order in sorted(orders.orders, key=str) if order.vip == vip],
            }
            for vip, announcement in announcements.items()
        ],
        "pools": [{"pool": str(pool), "wanted": one.wanted, "why": one.why} for pool, one in pools.items()],
        "peers": [
            entry.to_json() | {"since_s": max(0.0, round(wall - entry.since, 1))} for entry in node.exports.entries
        ],
        "sessions": peers,
        "down": down,
        "save_error": orders.save_error,
        "faults": [asdict(fault) for fault in faults],
    }


def _order(order: Order) -> dict[str, Any]:
    return {
        "kind": order.kind,
        "method": order.method,
        "reason": order.reason,
        "since": order.since,
        "until": order.until,
    }


def _add_orders(node: Announcing, kind: OrderKind, query: Mapping[str, str]) -> Response:
    now, vips = time.time(), _vips(node, query)
    method = _method(query) if kind is OrderKind.DRAIN else Method.WITHDRAW
    reason, until = _reason(query), _until(query, now)
    orders = [Order(vip, kind, method, reason, now, until) for vip in vips]
    node.operator.add_orders(orders, force="force" in query)
    return _done(node, vips)


def _remove_orders(node: Announcing, kind: OrderKind, query: Mapping[str, str]) -> Response:
    vips = _vips(node, query)
    node.operator.remove_orders(vips, kind)
    return _done(node, vips)


def _done(node: Announcing, vips: list[Address]) -> Response:
    return json_response({"ok": True, "vips": sorted(map(str, vips)), "save_error": node.operator.orders.save_error})


def _watch(node: Announcing) -> Response:
    async def lines() -> AsyncGenerator[bytes, None]:
        with node.exports.watch() as changes:
            for entry in node.exports.entries:
                yield _line(entry.to_json())
            # None: the client has left too much unread. Its connection is closed, so that it notices the gap.
            while change := await changes.get():
                yield _line(change.to_json())

    return Response(200, content_type="application/x-ndjson", lines=lines())


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _vips(node: Announcing, query: Mapping[str, str]) -> list[Address]:
    known = {str(vip): vip for vip in node.vips}
    text = query.get("vip")
    if text is None:
        return list(known.values())
    if text not in known:
        raise AgentError(f"{text} is not a VIP of this node; it has {', '.join(known)}")
    return [known[text]]


def _method(query: Mapping[str, str]) -> Method:
    text = query.get("method", Method.WITHDRAW)
    if text not in set(Method):
        raise AgentError(f"method: {text!r} is not one of {', '.join(Method)}")
    return Method(text)


def _reason(query: Mapping[str, str]) -> str:
    text = query.get("reason", "")
    if len(text) > MAX_REASON or not text.isprintable():
        raise AgentError(f"reason: more than {MAX_REASON} characters, or not all printable; shorten it to one line")
    return text


def _until(query: Mapping[str, str], now: float) -> float | None:
    text = query.get("for_s")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_FOR_S:
        raise AgentError(f"for: {text} s is not between 0 and a year; omit it for an order without an end")
    return now + seconds
