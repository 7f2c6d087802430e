# SPDX-License-Identifier: Apache-2.0
"""The control socket's part about announcements: how they stand, orders for them, and their changes as they come.

    GET  /announce            how each VIP stands at each peer, and what is wrong
    GET  /announce/watch      the same a line each, then every change, without end
    POST /announce            lift `down`               ?vip=
    POST /withdraw            order `down`              ?vip= &reason= &for_s= &force=yes
    POST /announce/drain      order a drain             ?vip= &reason= &for_s= &force=yes &method=
    POST /announce/undrain    lift the drain            ?vip=

Without `vip` all of the node's are meant.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.address import Address
from agent.announcing.export_status import alerts
from agent.announcing.order import Order, OrderKind
from agent.control import operator_request
from agent.control.http_server import Request, Response, Routes, json_response
from agent.errors import AgentError
from agent.model import Method

if TYPE_CHECKING:
    from agent.node.agent import Agent

MAX_REASON = 200
LONGEST_S = 366 * 86_400.0


def routes(agent: Agent) -> Routes:
    """What is answered, and by what."""
    return {
        ("GET", "/announce"): _standing(agent),
        ("GET", "/announce/watch"): _watch(agent),
        ("POST", "/announce"): _lift(agent, OrderKind.DOWN),
        ("POST", "/withdraw"): _give(agent, OrderKind.DOWN),
        ("POST", "/announce/drain"): _give(agent, OrderKind.DRAIN),
        ("POST", "/announce/undrain"): _lift(agent, OrderKind.DRAIN),
    }


def report(agent: Agent, wall: float) -> dict[str, Any]:
    """How the announcements of this node stand."""
    announcer, relay = agent.announcer, agent.relay
    away = None if relay.connected and relay.snapshot else relay.error or "the relay has not said anything yet"
    error = relay.snapshot.error if relay.snapshot else None
    found = [entry.status for entry in announcer.entries]
    return {
        "relay": away or "connected",
        "vips": [
            {
                "vip": str(vip),
                "wanted": announcement.wanted,
                "method": announcement.method,
                "why": announcement.why,
                "fault": announcement.fault,
                "others": [str(address) for address in operator_request.other_announcers(agent, vip)],
                "orders": [_told(order) for order in sorted(announcer.orders, key=str) if order.vip == vip],
            }
            for vip, announcement in agent.announcements.items()
        ],
        "peers": [entry.to_json() | {"since_s": max(0.0, round(wall - entry.since, 1))} for entry in announcer.entries],
        "unkept": announcer.save_error,
        "faults": [asdict(fault) for fault in alerts(agent.announcements, found, away, error)],
    }


def _told(order: Order) -> dict[str, Any]:
    return {
        "kind": order.kind,
        "method": order.method,
        "reason": order.reason,
        "since": order.since,
        "until": order.until,
    }


def _standing(agent: Agent) -> Any:
    async def handle(_: Request) -> Response:
        return json_response(report(agent, time.time()))

    return handle


def _give(agent: Agent, kind: OrderKind) -> Any:
    async def handle(request: Request) -> Response:
        query, now = request.query, time.time()
        vips = _vips(agent, query)
        method = _method(query) if kind is OrderKind.DRAIN else Method.WITHDRAW
        reason, until = _reason(query), _until(query, now)
        operator_request.add_orders(
            agent, [Order(vip, kind, method, reason, now, until) for vip in vips], force="force" in query
        )
        return _done(agent, vips)

    return handle


def _lift(agent: Agent, kind: OrderKind) -> Any:
    async def handle(request: Request) -> Response:
        vips = _vips(agent, request.query)
        operator_request.remove_orders(agent, vips, kind)
        return _done(agent, vips)

    return handle


def _done(agent: Agent, vips: list[Address]) -> Response:
    return json_response({"ok": True, "vips": sorted(map(str, vips)), "unkept": agent.announcer.save_error})


def _watch(agent: Agent) -> Any:
    async def lines() -> AsyncGenerator[bytes, None]:
        with agent.announcer.watch() as changes:
            for entry in agent.announcer.entries:
                yield _line(entry.to_json())
            # None: the client has left too much unread. Its connection is closed, so that it knows of the gap.
            while change := await changes.get():
                yield _line(change.to_json())

    async def handle(_: Request) -> Response:
        return Response(200, content_type="application/x-ndjson", lines=lines())

    return handle


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _vips(agent: Agent, query: Mapping[str, str]) -> list[Address]:
    known = {str(vip): vip for vip in agent.config.vips}
    wanted = query.get("vip")
    if wanted is None:
        return list(known.values())
    if wanted not in known:
        raise AgentError(f"{wanted} is not a VIP of this node; it has {', '.join(known)}")
    return [known[wanted]]


def _method(query: Mapping[str, str]) -> Method:
    text = query.get("method", Method.WITHDRAW)
    if text not in set(Method):
        raise AgentError(f"method: {text!r} is not one of {', '.join(Method)}")
    return Method(text)


def _reason(query: Mapping[str, str]) -> str:
    text = query.get("reason", "")
    if len(text) > MAX_REASON or not text.isprintable():
        raise AgentError(
            f"reason: more than {MAX_REASON} characters, or not all printable; say it shorter, on one line"
        )
    return text


def _until(query: Mapping[str, str], now: float) -> float | None:
    text = query.get("for_s")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise AgentError(f"for: {text} s is not a time up to a year; leave it out for an order without an end")
    return now + seconds
