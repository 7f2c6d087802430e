# SPDX-License-Identifier: Apache-2.0
"""Requests about the configuration: what runs, what lb.yml would change, and the change itself.

GET    /config              the effective configuration, and which settings are defaults
GET    /config/diff         what lb.yml would change, and in which steps
POST   /reload              apply lb.yml                            ?force
POST   /config/apply        the same, for a time                    ?timeout=SECONDS (for good without it) &force
POST   /config/confirm      let that change stay
POST   /config/undo         have the configuration before it run    ?force
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from agent.change.difference import Change
from agent.change.effective import defaults, effective
from agent.change.history import MAX_TIMEOUT_S, MIN_TIMEOUT_S
from agent.change.step import steps
from agent.config.file import Loaded
from agent.config.schema import Config
from agent.connections.monitor import ConnectionMonitor
from agent.control.http_server import Response, Routes, json_response
from agent.errors import AgentError, HalfDoneError
from agent.node.nat import Nat
from agent.problem import ProblemLine


class Changing(Protocol):
    """What changes the configuration. All but the properties raise AgentError, and then nothing has changed."""

    @property
    def refused(self) -> str | None:
        """Why the last change was refused; None once it is mended."""

    @property
    def settled(self) -> bool:
        """Whether ExaBGP has its part, or does not run."""

    @property
    def speaker_problem(self) -> ProblemLine | None:
        """Why ExaBGP does not have its part; None if it has."""

    async def read(self) -> tuple[Loaded, tuple[Change, ...]]:
        """Read lb.yml; return it, and what it would change."""

    async def apply(self, timeout_s: float | None, force: bool = False) -> int:
        """Apply lb.yml, with `timeout_s` until then unless it is confirmed; return the generation."""

    def confirm(self) -> None:
        """Let the change stay."""

    async def undo(self, force: bool = False) -> int:
        """Have the configuration before the last change run, and lb.yml contain it; return the generation."""


@dataclass(frozen=True, slots=True)
class Configured:
    """What the requests need of the agent."""

    config: Config
    connections: ConnectionMonitor
    nat: Nat
    changes: Changing


def routes(configured: Configured) -> Routes:
    """Return the handlers by method and path."""
    changes = configured.changes
    return {
        ("GET", "/config"): lambda _: json_response(_shown(configured.config)),
        ("GET", "/config/diff"): lambda _: _diff(configured),
        ("POST", "/reload"): lambda request: _change(lambda: changes.apply(None, "force" in request.query)),
        ("POST", "/config/apply"): lambda request: _change(
            lambda: changes.apply(_timeout_s(request.query), "force" in request.query)
        ),
        ("POST", "/config/confirm"): lambda _: _confirm(changes),
        ("POST", "/config/undo"): lambda request: _change(lambda: changes.undo("force" in request.query)),
    }


def _shown(config: Config) -> dict[str, Any]:
    return {"config": effective(config), "defaults": sorted(defaults(config))}


async def _diff(configured: Configured) -> Response:
    loaded, changes = await configured.changes.read()
    ending = await asyncio.to_thread(configured.nat.refusal, loaded.config)
    planned = steps(configured.config, loaded.config, changes, await _held(configured), ending)
    return json_response(
        {"equal": not changes, "changes": _as_json(changes), "steps": [asdict(one) for one in planned]}
    )


async def _held(configured: Configured) -> dict[str, int]:
    """Return how many connections of clients this node holds, by service, and for NAT services how many sessions;
    nothing of what cannot be counted."""
    counts = dict[str, int]()
    with contextlib.suppress(AgentError):
        held = await configured.connections.read()
        counts = {service.name: held.count(service.key) for service in configured.config.services}
    return counts | await asyncio.to_thread(configured.nat.held)


def _as_json(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [{**asdict(change), "text": change.text} for change in changes]


async def _change(change: Callable[[], Any]) -> Response:
    try:
        return json_response({"ok": True, "generation": await change()})
    except HalfDoneError:
        raise
    except AgentError as error:
        return json_response({"error": f"{error}\nnothing was changed"}, 400)


def _confirm(changes: Changing) -> Response:
    changes.confirm()
    return json_response({"ok": True})


def _timeout_s(query: Mapping[str, str]) -> float | None:
    if "timeout" not in query:
        return None
    try:
        timeout_s = float(query["timeout"])
    except ValueError:
        raise AgentError(f"timeout: {query['timeout']!r} is not a number of seconds") from None
    if not MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
        raise AgentError(f"timeout: {timeout_s:g} s is not in {MIN_TIMEOUT_S:g}-{MAX_TIMEOUT_S:g}")
    return timeout_s
