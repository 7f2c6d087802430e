# SPDX-License-Identifier: Apache-2.0
"""The client's end of the control socket: one question and its answer, or an answer that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent import web
from agent.errors import AgentError, NotRunningError

CLIENT_TIMEOUT_S = 10.0


async def call(path: Path, method: str, resource: str, /, **query: str) -> dict[str, Any]:
    """Ask the agent behind a control socket. NotRunningError when none answers, AgentError when it refuses."""
    with _failures(path):
        async with asyncio.timeout(CLIENT_TIMEOUT_S), _asked(path, method, resource, query) as (status, reader):
            answer: dict[str, Any] = await web.json_of(reader)
    _refused(status, answer)
    return answer


async def follow(path: Path, resource: str, /, **query: str) -> AsyncIterator[dict[str, Any]]:
    """The lines of an answer that has no end, as they come. NotRunningError when there is no agent or it ends."""
    with _failures(path):
        async with _asked(path, "GET", resource, query) as (status, reader):
            if status >= 400:
                _refused(status, await web.json_of(reader))
            with contextlib.suppress(ConnectionError):  # it was killed
                while (line := await reader.readline()).endswith(b"\n"):
                    yield json.loads(line)
    raise NotRunningError(f"{path}: the agent has ended, or has closed the connection; see its log")


@contextlib.asynccontextmanager
async def _asked(
    path: Path, method: str, resource: str, query: Mapping[str, str]
) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """The status of the agent's answer, and what follows."""
    reader, writer = await asyncio.open_unix_connection(path, limit=web.LINE_LIMIT)
    with contextlib.closing(writer):
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            status = await web.ask(reader, writer, method, resource, "agent", query)
        yield status, reader


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise AgentError(f"{path}: permission denied; run lbctl as root") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunningError(f"{path}: no agent answers; start it with `lbctl agent run` (lb-agent.service)") from None
    except (web.WebError, OSError) as error:  # TimeoutError is one
        raise NotRunningError(f"{path}: the agent does not answer ({error or 'timed out'})") from None


def _refused(status: int, answer: dict[str, Any]) -> None:
    if status >= 400:
        raise AgentError(str(answer.get("error", f"the agent refused with {status}")))
