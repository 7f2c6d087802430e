# SPDX-License-Identifier: Apache-2.0
"""Requests about the deny list of this node.

GET    /deny        the list
POST   /deny        add a prefix            ?prefix= &force=yes
DELETE /deny        remove a prefix         ?prefix=
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from agent.address import Network
from agent.control.http_server import Request, Response, Routes, json_response
from agent.errors import AgentError
from agent.forwarding.deny_list import DenyList
from bpf.errors import BpfError


def routes(deny_list: DenyList) -> Routes:
    """Return the handlers by method and path."""
    return {
        ("GET", "/deny"): lambda _: json_response(_denied(deny_list)),
        ("POST", "/deny"): lambda request: _add(deny_list, _prefix(request), "force" in request.query),
        ("DELETE", "/deny"): lambda request: _remove(deny_list, _prefix(request)),
    }


def _denied(deny_list: DenyList) -> dict[str, Any]:
    prefixes = sorted(deny_list.prefixes, key=lambda prefix: (prefix.version, prefix))
    return {"denied": [{"prefix": str(p), "configured": p in deny_list.configured} for p in prefixes]}


def _prefix(request: Request) -> Network:
    try:
        return ip_network(request.query.get("prefix", ""))
    except ValueError as error:
        raise AgentError(str(error)) from None


def _add(deny_list: DenyList, prefix: Network, force: bool) -> Response:
    return _changed(deny_list, lambda: deny_list.add(prefix, force))


def _remove(deny_list: DenyList, prefix: Network) -> Response:
    if prefix in deny_list.configured:
        return json_response({"error": f"{prefix} is in the configuration's deny list; remove it there"}, 409)
    if prefix not in deny_list.added:
        return json_response({"error": f"{prefix} is not denied; see `lbctl deny list`"}, 404)
    return _changed(deny_list, lambda: deny_list.replace(deny_list.added - {prefix}))


def _changed(deny_list: DenyList, change: Callable[[], None]) -> Response:
    try:
        change()
    except BpfError as error:
        return json_response({"error": str(error)}, 507)
    return json_response({"ok": True, **_denied(deny_list)})
