# SPDX-License-Identifier: Apache-2.0
"""The client's end of the control socket: one question and its answer, or an answer that goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from agent.errors import AgentError, NotRunningError

CLIENT_TIMEOUT_S = 10.0


async def call(path: Path, method: str, resource: str, /, **query: str) -> dict[str, Any]:
    """Ask the agent behind a control socket. NotRunningError when none answers, AgentError when it refuses."""
    url = f"http://agent{resource}"
    with _failures(path):
        async with _session(path, CLIENT_TIMEOUT_S) as session, session.request(method, url, params=query) as response:
            answer: dict[str, Any] = await response.json()
    _refused(response, answer)
    return answer


async def follow(path: Path, resource: str, /, **query: str) -> AsyncIterator[dict[str, Any]]:
    """The lines of an answer that has no end, as they come. NotRunningError when there is no agent or it ends."""
    with _failures(path):
        async with _session(path, None) as session, session.get(f"http://agent{resource}", params=query) as response:
            if response.status >= 400:
                _refused(response, await response.json())
            with contextlib.suppress(aiohttp.ClientPayloadError):  # it was killed
                while line := await response.content.readline():
                    yield json.loads(line)
    raise NotRunningError(f"{path}: the agent has ended, or has closed the connection; see its log")


def _session(path: Path, total_s: float | None) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CLIENT_TIMEOUT_S)
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout)


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise AgentError(f"{path}: permission denied; run lbctl as root") from None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, PermissionError):
            raise AgentError(f"{path}: permission denied; run lbctl as root") from None
        raise NotRunningError(f"{path}: no agent answers; start it with `lbctl agent run` (lb-agent.service)") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotRunningError(f"{path}: the agent does not answer ({error or 'timed out'})") from None


def _refused(response: aiohttp.ClientResponse, answer: dict[str, Any]) -> None:
    if response.status >= 400:
        raise AgentError(str(answer.get("error", f"the agent refused with {response.status}")))
