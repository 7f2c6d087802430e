# SPDX-License-Identifier: Apache-2.0
"""The control socket: HTTP over a unix socket that only root may open. lbctl is its client (client.py)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from agent.control import announce as control_announce
from agent.control import explain, operator_request
from agent.control.http_server import HttpServer, Request, Response, Routes, json_response
from agent.control.status import status
from agent.errors import AgentError, LastAnnouncerError
from agent.model import State
from agent.node.plan import effective_weight, own_share
from bpf.errors import BpfError

if TYPE_CHECKING:
    from agent.node.agent import Agent

log = logging.getLogger("anylb")
_INTENTS = {"/drain": State.DRAINING, "/undrain": State.UP, "/leave": State.LEFT}


@contextlib.asynccontextmanager
async def serve(agent: Agent, reload: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
    """Answer on the control socket for as long as the context lasts. A socket left by a dead agent is replaced."""
    routes: Routes = {
        ("GET", "/status"): lambda _: _json(status(agent)),
        ("GET", "/explain"): _explain(agent),
        **{("POST", path): _intent(agent, state) for path, state in _INTENTS.items()},
        **control_announce.routes(agent),
        ("GET", "/deny"): lambda _: _json(_denied(agent)),
        ("POST", "/deny"): _deny(agent, add=True),
        ("DELETE", "/deny"): _deny(agent, add=False),
        ("POST", "/reload"): _reload(reload),
        ("POST", "/backend"): _backend(agent),
    }
    server = HttpServer(lambda request: _answer(routes, request))
    path = agent.paths.control
    # The agent's lock is held: whatever socket lies here has no server any more.
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        await server.start(path)
    except OSError as error:
        raise AgentError(f"{path}: cannot listen there: {error.strerror}; remove what is in the way") from None
    finally:
        os.umask(before)
    try:
        yield
    finally:
        await server.stop()
        path.unlink(missing_ok=True)


async def _answer(routes: Routes, request: Request) -> Response:
    """A fault of ours is told as one, not as an agent that is not there."""
    handler = routes.get((request.method, request.path))
    if handler is None:
        known = any(path == request.path for _, path in routes)
        status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return await _json({"error": f"{request.method} {request.path}: {status.phrase}"}, status)
    try:
        return await handler(request)
    except LastAnnouncerError as error:
        return await _json({"error": str(error)}, 409)
    except AgentError as error:
        return await _json({"error": str(error)}, 400)
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return await _json({"error": f"{request.path} failed in the agent: {error}; see its log"}, 500)


async def _json(body: dict[str, Any], code: int = 200) -> Response:
    return json_response(body, code)


def _intent(agent: Agent, intent: State) -> Any:
    async def handle(request: Request) -> Response:
        operator_request.set_admin_state(agent, intent, force="force" in request.query)
        return await _json({"ok": True, "state": intent})

    return handle


def _reload(reload: Callable[[], Awaitable[int]]) -> Any:
    async def handle(_: Request) -> Response:
        try:
            return await _json({"ok": True, "generation": await reload()})
        except AgentError as error:
            return await _json({"error": f"{error}\nnothing was changed"}, 400)

    return handle


def _backend(agent: Agent) -> Any:
    """Query: `service` (all without it), and `drained` (yes, no) or `weight` (a number, a percentage, or nominal)."""

    async def handle(request: Request) -> Response:
        named = request.query.get("service")
        services = [s for s in agent.config.services if named in (None, s.name)]
        if not services:
            known = ", ".join(s.name for s in agent.config.services)
            return await _json({"error": f"{named} is not a service of this node; it has {known}"}, 404)
        if "drained" in request.query:
            agent.set_backend([s.name for s in services], drained=request.query["drained"] == "yes")
        try:
            weights = {s.name: effective_weight(request.query["weight"], s.weight) for s in services if "weight" in
                       request.query}  # fmt: skip
        except AgentError as error:
            return await _json({"error": str(error)}, 400)
        for name, weight in weights.items():
            agent.set_backend([name], weight=weight)
        shares = {s.name: own_share(s, agent.condition) for s in services}
        return await _json(
            {
                "ok": True,
                "services": [
                    {"name": name, "state": share.state, "weight": share.weight, "effective": share.effective}
                    for name, share in shares.items()
                ],
            }
        )

    return handle


def _denied(agent: Agent) -> dict[str, Any]:
    listed = sorted(agent.all_denied, key=lambda prefix: (prefix.version, prefix))
    return {"denied": [{"prefix": str(p), "configured": p in agent.config.deny} for p in listed]}


def _deny(agent: Agent, add: bool) -> Any:
    async def handle(request: Request) -> Response:
        text = request.query.get("prefix", "")
        try:
            prefix = ip_network(text)
        except ValueError as error:
            return await _json({"error": f"{error}"}, 400)
        if not add and prefix in agent.config.deny:
            return await _json({"error": f"{prefix} stands in the configuration's deny list; remove it there"}, 409)
        if not add and prefix not in agent.denied:
            return await _json({"error": f"{prefix} is not denied; see `lbctl deny list`"}, 404)
        try:
            agent.deny(agent.denied | {prefix} if add else agent.denied - {prefix})
        except BpfError as error:
            return await _json({"error": str(error)}, 507)
        return await _json({"ok": True, **_denied(agent)})

    return handle


def _explain(agent: Agent) -> Any:
    async def handle(request: Request) -> Response:
        return await _json(explain.explain(agent, explain.parse(request.query.get("tuple", ""))))

    return handle
