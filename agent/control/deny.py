# SPDX-License-Identifier: Apache-2.0
"""Requests about the deny list of this node.

GET    /deny        the list
POST   /deny        add a prefix            ?prefix=
DELETE /deny        remove a prefix         ?prefix=
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from agent.address import Network
from agent.control.http_server import Request, Response, Routes, json_response
from agent.errors import AgentError
from bpf.errors import BpfError

if TYPE_CHECKING:
    from agent.node.agent import Agent


def routes(agent: Agent) -> Routes:
    """Return the handlers by method and path."""
    return {
        ("GET", "/deny"): lambda _: json_response(_denied(agent)),
        ("POST", "/deny"): lambda request: _add(agent, _prefix(request)),
        ("DELETE", "/deny"): lambda request: _remove(agent, _prefix(request)),
    }


def _denied(agent: Agent) -> dict[str, Any]:
    prefixes = sorted(agent.all_denied, key=lambda prefix: (prefix.version, prefix))
    return {"denied": [{"prefix": str(p), "configured": p in agent.config.deny} for p in prefixes]}


def _prefix(request: Request) -> Network:
    try:
        return ip_network(request.query.get("prefix", ""))
    except ValueError as error:
        raise AgentError(str(error)) from None


def _add(agent: Agent, prefix: Network) -> Response:
    return _set(agent, agent.denied | {prefix})


def _remove(agent: Agent, prefix: Network) -> Response:
    if prefix in agent.config.deny:
        return json_response({"error": f"{prefix} is in the configuration's deny list; remove it there"}, 409)
    if prefix not in agent.denied:
        return json_response({"error": f"{prefix} is not denied; see `lbctl deny list`"}, 404)
    return _set(agent, agent.denied - {prefix})


def _set(agent: Agent, prefixes: frozenset[Network]) -> Response:
    try:
        agent.deny(prefixes)
    except BpfError as error:
        return json_response({"error": str(error)}, 507)
    return json_response({"ok": True, **_denied(agent)})
