# SPDX-License-Identifier: Apache-2.0
"""Requests about the instances of a service on this node.

GET    /instances          of all services that have the setting
POST   /instances/switch   ?name=
POST   /instances/drain    ?name=    /instances/undrain likewise
POST   /instances/weight   ?name=&weight=
POST   /instances/add      ?pid=&name=
POST   /instances/remove   ?name=

All but the first: &service=NAME, which only a node with several such services requires.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agent.control.http_server import Request, Response, Routes, json_response
from agent.errors import AgentError
from agent.instances.keeper import InstanceKeeper
from agent.instances.request import Requests

MAX_DIGITS: Final = 10
"""Of a number in a query: Python refuses those of more than 4,300."""
_Change = Callable[[Requests, str | None, Mapping[str, str]], Awaitable[str]]

_CHANGES: dict[str, _Change] = {
    "switch": lambda requests, service, query: requests.switch(service, _name(query)),
    "drain": lambda requests, service, query: requests.drain(service, _name(query), True),
    "undrain": lambda requests, service, query: requests.drain(service, _name(query), False),
    "weight": lambda requests, service, query: requests.weight(service, _name(query), _number(query, "weight")),
    "add": lambda requests, service, query: requests.add(service, _number(query, "pid"), query.get("name")),
    "remove": lambda requests, service, query: requests.remove(service, _name(query)),
}
"""Each returns the name of the service."""


def routes(keeper: InstanceKeeper) -> Routes:
    """Return the handlers by method and path."""

    def handler(change: _Change) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            service = await change(keeper.requests, request.query.get("service"), request.query)
            return json_response({"ok": True, "services": [_service(keeper, service)]})

        return handle

    return {
        ("GET", "/instances"): lambda _: json_response(
            {"services": [_service(keeper, service) for service in keeper.services]}
        ),
        **{("POST", f"/instances/{name}"): handler(change) for name, change in _CHANGES.items()},
    }


def _service(keeper: InstanceKeeper, name: str) -> dict[str, Any]:
    return {"name": name, **(keeper.status(name) or {})}


def _name(query: Mapping[str, str]) -> str:
    if not query.get("name"):
        raise AgentError("name: is missing; give the name of an instance")
    return query["name"]


def _number(query: Mapping[str, str], field: str) -> int:
    text = query.get(field, "")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise AgentError(f"{field}: '{text[:MAX_DIGITS]}' is not a number of at most {MAX_DIGITS} digits")
    return int(text)
