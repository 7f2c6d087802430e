# SPDX-License-Identifier: Apache-2.0
"""The client of the agent's control socket: one request and its response, or a response that goes on without end."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent.errors import AgentError, NotPermittedError, NotRunningError

TIMEOUT_S = 10.0
"""For each step: connecting, and every read of the response."""
MAX_LINE = 65_536
"""Bytes of a line of the response's head."""


def call(path: Path, method: str, resource: str, /, **query: str) -> dict[str, Any]:
    """Return the agent's response. Raises NotRunningError if no agent answers, AgentError if it refuses."""
    return call_within(path, method, resource, TIMEOUT_S, query)


def call_within(
    path: Path, method: str, resource: str, timeout_s: float, query: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the response to a request that the agent may work on for `timeout_s` seconds. Raises as `call` does."""
    with _errors(path), _Response(path, method, resource, timeout_s, query or {}) as response:
        return response.json()


def follow(path: Path, resource: str, /, **query: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of an endless response as they come. Raises as `call` does, and NotRunningError at its end."""
    with _errors(path), _Response(path, "GET", resource, TIMEOUT_S, query) as response:
        if response.status >= 400:
            response.json()
        yield from response.lines()
    raise NotRunningError(f"{path}: the agent has ended, or has closed the connection; see its log")


class _Response:
    """A response as it comes. The request is HTTP/1.0: its response ends with the connection, without chunks.

    Standard library's http.client would be a fifth of lbctl's start: it imports the parsers of mail, and TLS.
    """

    def __init__(self, path: Path, method: str, resource: str, timeout_s: float, query: Mapping[str, str]) -> None:
        """Send a request, and read the head of its response. Raises OSError, ValueError."""
        self._sock = socket.socket(socket.AF_UNIX)
        self._file = self._sock.makefile("rb")
        try:
            self._sock.settimeout(timeout_s)
            self._sock.connect(str(path))
            target = f"{resource}?{urlencode(query)}" if query else resource
            self._sock.sendall(f"{method} {target} HTTP/1.0\r\n\r\n".encode("ascii"))
            start = self._file.readline(MAX_LINE)  # HTTP/1.1 200 OK
            if not start.startswith(b"HTTP/1."):
                raise ConnectionError("it has closed the connection" if not start else "what answers is no agent")
            self.status = int(start[9:12])
            self._length = self._read_head()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> _Response:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self._file.close()
        self._sock.close()

    def _read_head(self) -> int | None:
        """Read the header fields; return the length of the body, None if it is not known."""
        length = None
        while (line := self._file.readline(MAX_LINE).strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return length

    def json(self) -> dict[str, Any]:
        """Return the body. Raises AgentError if it is a refusal, ValueError if it is incomplete or not JSON."""
        text = self._file.read()
        if self._length is not None and len(text) != self._length:
            raise ValueError("incomplete")
        body: dict[str, Any] = json.loads(text)
        if self.status >= 400:
            raise AgentError(str(body.get("error", f"the agent refused with {self.status}")))
        return body

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield each line of the body as it comes; an agent that is killed ends it."""
        self._sock.settimeout(None)
        with contextlib.suppress(ConnectionError):
            while (line := self._file.readline()).endswith(b"\n"):
                yield json.loads(line)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        step = "run lbctl as root, or to read as a member of the group anylb (`adduser USER anylb`)"
        raise NotPermittedError(f"{path}: permission denied; {step}") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunningError(f"{path}: no agent answers; start it with `lbctl agent run` (lb-agent.service)") from None
    except ValueError:
        raise NotRunningError(f"{path}: the agent's response is not JSON, or is incomplete; see its log") from None
    except OSError as error:  # TimeoutError is one
        raise NotRunningError(f"{path}: the agent does not answer ({error or 'timed out'})") from None
