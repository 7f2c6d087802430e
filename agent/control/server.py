# SPDX-License-Identifier: Apache-2.0
"""The control socket: HTTP over a unix socket that only root may open. lbctl is its client (agent/cli/client.py).

Owns the table of what it serves, and the status codes of errors. Each noun's requests are in a module of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from agent.control import announce, backend, deny, explain, operator_request
from agent.control.http_server import HttpServer, Request, Response, Routes, json_response
from agent.control.status import status
from agent.errors import AgentError, LastAnnouncerError
from agent.model import State

if TYPE_CHECKING:
    from agent.node.agent import Agent

log = logging.getLogger("anylb")
Reload = Callable[[], Awaitable[int]]
"""Starts a reload and returns the number of the new configuration. Raises AgentError if it is refused."""


def _routes(agent: Agent, reload: Reload) -> Routes:
    return {
        ("GET", "/status"): lambda _: json_response(status(agent)),
        ("GET", "/explain"): lambda request: json_response(explain.explain(agent, request.query.get("tuple", ""))),
        ("POST", "/drain"): lambda request: _set_state(agent, State.DRAINING, request),
        ("POST", "/undrain"): lambda request: _set_state(agent, State.UP, request),
        ("POST", "/leave"): lambda request: _set_state(agent, State.LEFT, request),
        ("POST", "/reload"): lambda _: _reload(reload),
        **announce.routes(agent),
        **backend.routes(agent),
        **deny.routes(agent),
    }


@contextlib.asynccontextmanager
async def serve(agent: Agent, reload: Reload) -> AsyncIterator[None]:
    """Serve the control socket for as long as the context lasts. A socket left by a dead agent is replaced."""
    routes = _routes(agent, reload)
    server = HttpServer(lambda request: _respond(routes, request))
    path = agent.paths.control
    # The agent's lock is held: a socket that is here has no server any more.
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        await server.start(path)
    except OSError as error:
        raise AgentError(f"{path}: cannot listen there: {error.strerror}; remove what occupies the path") from None
    finally:
        os.umask(before)
    try:
        yield
    finally:
        await server.stop()
        path.unlink(missing_ok=True)


async def _respond(routes: Routes, request: Request) -> Response:
    """Return a handler's response. A bug in one is reported as status 500, not as an agent that does not answer."""
    handler = routes.get((request.method, request.path))
    if handler is None:
        known = any(path == request.path for _, path in routes)
        code = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return json_response({"error": f"{request.method} {request.path}: {code.phrase}"}, code)
    try:
        response = handler(request)
        return response if isinstance(response, Response) else await response
    except LastAnnouncerError as error:
        return json_response({"error": str(error)}, 409)
    except AgentError as error:
        return json_response({"error": str(error)}, 400)
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return json_response({"error": f"{request.path} failed in the agent: {error}; see its log"}, 500)


def _set_state(agent: Agent, state: State, request: Request) -> Response:
    operator_request.set_admin_state(agent, state, force="force" in request.query)
    return json_response({"ok": True, "state": state})


async def _reload(reload: Reload) -> Response:
    try:
        return json_response({"ok": True, "generation": await reload()})
    except AgentError as error:
        return json_response({"error": f"{error}\nnothing was changed"}, 400)
