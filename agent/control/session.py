# SPDX-License-Identifier: Apache-2.0
"""Requests about the sessions of NAT services on this node.

    GET  /sessions          all that are selected, as pages (agent/sessions/page.py)    and &limit=
    GET  /sessions/one      the session of a slot, of a NAT endpoint or of a flow       ?of=
    GET  /sessions/watch    changes of those that are selected, as pages, without end
    POST /sessions/kill     close those that are selected    with &all=yes also by short prefixes alone, or by nothing

?service= &client=PREFIX &backend=ADDRESS[:PORT] &pool=PREFIX &state= select, each alone or together; without any, all
are. A list begins with a line that has the names of the services, and ends with one that has the number of sessions.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from agent.address import Address, Network, endpoint
from agent.config.deny import SHORTEST
from agent.config.nat import NatConfig, used_part
from agent.control.explain import parse
from agent.control.http_server import Response, Routes, json_response
from agent.errors import AgentError
from agent.model import Flow
from agent.sessions.keeper import SessionKeeper
from agent.sessions.listing import PART, Found, close_selected, count_live, find_one, read_pages, slots_of_rows
from agent.sessions.page import STATE_NAMES, Names
from agent.sessions.selection import USED, Selection
from agent.sessions.tag_array import LIVE
from agent.table.epoch import Epoch
from bpf.layout.nat import NAT_ROWS, PORT_BITS, slot_of
from bpf.layout.session import SessionState
from bpf.maps.session_map import now_tick
from bpf.reference.flow_hash import row_of

_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Sessions:
    """What these requests read and change."""

    keeper: SessionKeeper | None
    """None if the node has no NAT service, or no data path."""
    nat: NatConfig | None
    epochs: Sequence[Epoch]
    former: Sequence[Network] = ()
    """The former pools."""

    def open(self) -> tuple[SessionKeeper, NatConfig]:
        """Return keeper and configuration. Raises AgentError without NAT."""
        if self.keeper is None or self.nat is None:
            raise AgentError("this node has no sessions: no service has mode: nat, or the data path is off (xdp.mode)")
        return self.keeper, self.nat

    def names(self) -> Names:
        """Return what numbers of records mean."""
        keeper, _ = self.open()
        return Names(keeper.service_names)

    def selection(self, query: Mapping[str, str], every: Iterable[SessionState] = USED) -> Selection:
        """Read what selects sessions; without a state, those in a state of `every` are. Raises AgentError."""
        return selection(query, self.names().services, tuple(every))


def routes(node: Sessions) -> Routes:
    """Return the handlers by method and path."""
    return {
        ("GET", "/sessions"): lambda request: _list(node, request.query),
        ("GET", "/sessions/one"): lambda request: json_response(one(node, request.query.get("of", ""))),
        ("GET", "/sessions/watch"): lambda request: _watch(node, request.query),
        ("POST", "/sessions/kill"): lambda request: _kill(node, request.query),
    }


def selection(query: Mapping[str, str], services: Mapping[int, str], states: tuple[SessionState, ...]) -> Selection:
    """Read a request's selection. Raises AgentError, with what is possible instead."""
    chosen = Selection(states)
    if (name := query.get("service")) is not None:
        slots = frozenset(slot for slot, one in services.items() if one == name)
        if not slots:
            known = ", ".join(sorted(services.values())) or "none"
            raise AgentError(f"{name or repr(name)} is not a NAT service of this node; it has {known}")
        chosen = replace(chosen, services=slots)
    if (text := query.get("client")) is not None:
        try:
            chosen = replace(chosen, client=ip_network(text))
        except ValueError as error:
            raise AgentError(f"client: {error}") from None
    if (text := query.get("pool")) is not None:
        try:
            chosen = replace(chosen, pool=ip_network(text))
        except ValueError as error:
            raise AgentError(f"pool: {error}") from None
    if (text := query.get("backend")) is not None:
        address, port = parse_end(text)
        chosen = replace(chosen, backend=address, backend_port=port)
    if (text := query.get("state")) is not None:
        if text not in STATE_NAMES:
            raise AgentError(f"{text} is not a state; a session is {', '.join(STATE_NAMES)}")
        chosen = replace(chosen, states=(STATE_NAMES[text],))
    return chosen


def parse_end(text: str) -> tuple[Address, int | None]:
    """Read ADDRESS or ADDRESS:PORT, an IPv6 address with a port in brackets. Raises AgentError."""
    found = _ENDPOINT.fullmatch(text.strip())
    try:
        if found is None:
            return ip_address(text.strip()), None
        address, port = ip_address(found["v4"] or found["v6"]), found["port"]
    except ValueError:
        raise AgentError(f"'{text}' is not an address or an endpoint; write 10.9.0.11 or 10.9.0.11:8443") from None
    if port is not None and not 1 <= int(port) <= 65_535:
        raise AgentError(f"'{text}': port {port} is not in 1-65535")
    return address, int(port) if port else None


def slot_at(text: str, pools: Sequence[Network], slots: int) -> int | None:
    """Return the slot that a number or an endpoint of a pool names; None if the text is neither. `slots` is how many
    there are. Raises AgentError."""
    if _NUMBER.fullmatch(text):
        slot = int(text)
        if slot >= slots:
            raise AgentError(f"slot {slot} is not in 0-{slots - 1}")
        return slot
    if not _ENDPOINT.fullmatch(text):
        return None
    address, port = parse_end(text)
    pool = next((one for one in pools if address in used_part(one, slots)), None)
    if pool is None:
        ends = [f"{one[0]} to {one[(slots >> PORT_BITS) - 1]}" for one in pools]
        raise AgentError(f"{address} is no NAT address; sessions have {', and '.join(ends)}")
    if port is None or port < 1 << PORT_BITS:
        raise AgentError(f"{text}: sessions have the ports {1 << PORT_BITS} to 65535; write {endpoint(address, 40000)}")
    return slot_of(pool, address, port)


def one(node: Sessions, text: str) -> dict[str, Any]:
    """Return the session of a slot, an endpoint or a flow. Raises AgentError if there is none on this node."""
    found = session_of(node, text.strip())
    if found is None:
        raise AgentError(f"there is no session of {text} on this node; `lbctl explain` shows which node owns it")
    return found.describe(now_tick(), node.names())


def session_of(node: Sessions, text: str) -> Found | None:
    """Return the session of a slot, an endpoint or a flow, if it is on this node. Raises AgentError."""
    keeper, nat = node.open()
    slot = slot_at(text, (*nat.pools, *node.former), len(keeper.table.tags))
    if slot is not None:
        address = None if _NUMBER.fullmatch(text) else ip_network(parse_end(text)[0])
        return find_one(keeper.table, Selection(pool=address), [range(slot, slot + 1)])
    flow = parse(text)
    rows = [nat_row(epoch, flow) for epoch in node.epochs]
    return find_one(keeper.table, Selection(flow=flow), slots_of_rows(keeper.table, rows))


def nat_row(epoch: Epoch, flow: Flow) -> int:
    """Return the row of a flow's session in an epoch."""
    return row_of(epoch.key, NAT_ROWS, flow.client, flow.client_port, flow.vip, flow.vip_port)


def _list(node: Sessions, query: Mapping[str, str]) -> Response:
    text = query.get("limit")
    if text is not None and not (_NUMBER.fullmatch(text) and int(text)):
        raise AgentError(f"limit: '{text[:20]}' is not a number from 1 on")
    return Response(200, lines=_pages(node, node.selection(query), int(text) if text else None))


async def _pages(node: Sessions, chosen: Selection, limit: int | None) -> AsyncGenerator[bytes, None]:
    table, sent = node.open()[0].table, 0
    yield _line(_head(node))
    for start in range(0, len(table.tags), PART):
        left = None if limit is None else limit - sent
        pages, count = await asyncio.to_thread(read_pages, table, chosen, start, left, now_tick())
        for page in pages:
            yield page
        sent += count
        if sent == limit:
            break
    yield _line({"end": True, "sessions": sent})


def _watch(node: Sessions, query: Mapping[str, str]) -> Response:
    keeper, _ = node.open()
    chosen = node.selection(query, (*USED, SessionState.FREE))

    async def lines() -> AsyncGenerator[bytes, None]:
        yield _line(_head(node))
        async for page in keeper.watch.pages(chosen):
            yield page

    return Response(200, lines=lines())


async def _kill(node: Sessions, query: Mapping[str, str]) -> Response:
    keeper, _ = node.open()
    chosen = node.selection(query, LIVE)
    if not set(chosen.states) <= set(LIVE):
        raise AgentError("sessions of this state are closed already")
    short = _short_prefixes(chosen)
    client, pool = (None if name in short else getattr(chosen, name) for name in ("client", "pool"))
    if "all" not in query and replace(chosen, client=client, pool=pool) == Selection(LIVE):
        number, total = await asyncio.to_thread(lambda: (count_live(keeper.table, [chosen]), count_live(keeper.table)))
        which = " and ".join(f"{name} {query[name]}" for name in short) or "this"
        raise AgentError(
            f"{which} would close {number:,} of {total:,} sessions; name a service, longer prefixes, a backend or a "
            "state, or use --all"
        )
    closed = await asyncio.to_thread(close_selected, keeper.table, chosen)
    return json_response({"ok": True, "closed": closed})


def _short_prefixes(chosen: Selection) -> list[str]:
    """Return the names of the prefixes that have a good part of all addresses."""
    prefixes = {"client": chosen.client, "pool": chosen.pool}
    return [name for name, one in prefixes.items() if one is not None and one.prefixlen < SHORTEST[one.version]]


def _head(node: Sessions) -> dict[str, Any]:
    names = node.names()
    return {"services": {str(slot): name for slot, name in names.services.items()}}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
