# SPDX-License-Identifier: Apache-2.0
"""The endpoint for monitoring: `/metrics` for Prometheus and `/health`, over TCP, by default on loopback.

On loopback alone it also serves a page for people (page.html) with what that asks for: `/`, `/status.json`,
`/cluster.json`, `/events.json` and `/explain.json?tuple=`. It changes nothing, and serves no addresses of clients. An
address that cannot be listened at is a problem line, and the agent goes on. Rendering 50 services takes tens of
milliseconds, so a thread does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from agent.address import endpoint
from agent.config.metrics import MetricsConfig
from agent.control.check import Checked
from agent.control.http_server import HttpServer, Request, Response, json_response
from agent.errors import AgentError
from agent.problem import Problem, ProblemLine

log = logging.getLogger("anylb")
TEXT = "text/plain; version=0.0.4; charset=utf-8"
PAGE: Final = Path(__file__).with_name("page.html")
REQUESTED: Final = "requested: "
"""How the event begins that names a request (server.py)."""
Look = Callable[[], tuple[Mapping[str, Any], Checked]]
"""Returns the status of the node and the verdict on it, of this moment."""
Events = Callable[[], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class PageSources:
    """What the page asks for beside the status."""

    explain: Callable[[str], Mapping[str, Any]]
    """Explains a flow, as `lbctl explain` does. Raises AgentError."""
    events: Events
    """Returns the last events, the newest first. Raises OSError."""
    cluster: Callable[[], Awaitable[Mapping[str, Any]]]
    """Returns all members by their own account (cluster.py)."""


NOT_SERVED = Problem(
    "metrics are not served at {where}: {error}",
    "free the port, or change metrics.listen",
    "Only monitoring is without data. The agent tries again when it is reloaded.",
)


@contextlib.asynccontextmanager
async def serve_metrics(config: MetricsConfig, look: Look, sources: PageSources) -> AsyncIterator[ProblemLine | None]:
    """Serve for as long as the context lasts; its value is why it is not served, None if it is, or must not be."""
    where = config.endpoint
    if where is None:
        yield None
        return
    page = _Page(look, sources) if where[0].is_loopback else None
    server = HttpServer(lambda request: _respond(look, page, request))
    problem = None
    try:
        await server.start_tcp(str(where[0]), where[1])
    except OSError as error:
        problem = NOT_SERVED.line(where=endpoint(*where), error=error.strerror)
        log.warning("%s", problem)
    try:
        yield problem
    finally:
        await server.stop()


class _Page:
    """What people on this machine see: the page, and what it asks for."""

    def __init__(self, look: Look, sources: PageSources) -> None:
        self._look, self._sources = look, sources

    async def respond(self, request: Request) -> Response | None:
        """Return the response; None for a path that is not the page's."""
        match request.path:
            case "/":
                return Response(200, PAGE.read_bytes(), "text/html; charset=utf-8")
            case "/status.json":
                return json_response(self._look()[0])
            case "/cluster.json":
                return json_response(await self._sources.cluster())
            case "/events.json":
                return self._events()
            case "/explain.json":
                try:
                    return json_response(self._sources.explain(request.query.get("tuple", "")))
                except AgentError as error:
                    return json_response({"error": str(error)}, 400)
        return None

    def _events(self) -> Response:
        """Return the last events. What an operator has requested is named without its values: they may be clients."""
        try:
            found = self._sources.events()
        except OSError as error:
            return json_response({"error": f"{error.filename}: {error.strerror}"}, 500)
        shown = [
            {**one, "text": " ".join(one["text"].split()[:2])} if one["text"].startswith(REQUESTED) else one
            for one in found
        ]
        return json_response({"events": shown})


async def _respond(look: Look, page: _Page | None, request: Request) -> Response:
    if request.method not in ("GET", "HEAD"):
        return json_response({"error": f"{request.method} is not served here"}, 405)
    try:
        if request.path == "/health":
            return _health(look()[1])
        if request.path == "/metrics":
            return await _metrics(look)
        if page is not None and (response := await page.respond(request)) is not None:
            return response
    except Exception as error:
        log.exception("%s", request.path)
        return json_response({"error": f"{request.path} failed in the agent: {error}; see its log"}, 500)
    return json_response({"error": f"{request.path} is not served here; /metrics and /health are"}, 404)


def _health(found: Checked) -> Response:
    """Return 200, or 503 while something is critical, with the verdict of `lbctl check`."""
    body = json.dumps(found.to_json()).encode() + b"\n"
    return Response(503 if found.state == "critical" else 200, body)


async def _metrics(look: Look) -> Response:
    status, found = look()
    wall = time.time()

    def render() -> bytes:
        from agent.control import metrics  # 26 ms and 2 MB, which only an agent that is scraped needs

        return metrics.render(status, found, version("anylb"), wall)

    return Response(200, await asyncio.to_thread(render), TEXT)
