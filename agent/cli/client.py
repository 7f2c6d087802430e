# SPDX-License-Identifier: Apache-2.0
"""The client of the agent's control socket: one request and its response, or a response that goes on without end."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent.errors import AgentError, NotRunningError

TIMEOUT_S = 10.0
"""For each step: connecting, and every read of the response."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket. `sock` is the connection's for as long as a response is read."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, resource: str, /, **query: str) -> dict[str, Any]:
    """Return the agent's response. Raises NotRunningError if no agent answers, AgentError if it refuses."""
    return call_within(path, method, resource, TIMEOUT_S, query)


def call_within(
    path: Path, method: str, resource: str, timeout_s: float, query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the response to a request that the agent may work on for `timeout_s` seconds. Raises as `call` does."""
    with _errors(path), contextlib.closing(_UnixConnection(path, timeout_s)) as connection:
        return _read(_request(connection, method, resource, query or {}))


def follow(path: Path, resource: str, /, **query: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of an endless response as they come. Raises as `call` does, and NotRunningError at its end."""
    with _errors(path), contextlib.closing(_UnixConnection(path, TIMEOUT_S)) as connection:
        connection.connect()
        sock = connection.sock
        response = _request(connection, "GET", resource, query)
        if response.status >= 400:
            _read(response)
        sock.settimeout(None)
        with response, contextlib.suppress(ConnectionError, http.client.IncompleteRead):  # the agent was killed
            while line := response.readline():
                yield json.loads(line)
    raise NotRunningError(f"{path}: the agent has ended, or has closed the connection; see its log")


def _request(
    connection: _UnixConnection, method: str, resource: str, query: Mapping[str, str]
) -> http.client.HTTPResponse:
    target = f"{resource}?{urlencode(query)}" if query else resource
    connection.request(method, target, headers={"Connection": "close"})
    return connection.getresponse()


def _read(response: http.client.HTTPResponse) -> dict[str, Any]:
    with response:
        body: dict[str, Any] = json.loads(response.read())
    if response.status >= 400:
        raise AgentError(str(body.get("error", f"the agent refused with {response.status}")))
    return body


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise AgentError(f"{path}: permission denied; run lbctl as root") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunningError(f"{path}: no agent answers; start it with `lbctl agent run` (lb-agent.service)") from None
    except (http.client.IncompleteRead, ValueError):
        raise NotRunningError(f"{path}: the agent's response is not JSON, or is incomplete; see its log") from None
    except (http.client.HTTPException, OSError) as error:  # TimeoutError is one
        raise NotRunningError(f"{path}: the agent does not answer ({error or 'timed out'})") from None
