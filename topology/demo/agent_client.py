# SPDX-License-Identifier: Apache-2.0
"""Requests to a node's agent over its control socket, and the part of its status that the demo compares."""

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVICE = "echo"
#: A reply takes milliseconds, or seconds if other processes have all CPUs.
REPLY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One node's status of the service. Nodes by name.

    `digest` is that of the owners of its rows, `takers` take new connections, `listed` are in chains. Lost nodes are
    left out: a node that joined since has never known them. `takers` and `listed` are what the node knows, `digest` is
    of the rows that its program uses: these are of those members only once they are `written`.
    """

    digest: str
    takers: frozenset[str]
    listed: frozenset[str]
    written: bool = field(default=True, compare=False)


def read_service_status(status: dict[str, Any], names: Mapping[str, str]) -> ServiceStatus | None:
    """Read GET /status, with the nodes' names by address; None while the agent is not ready."""
    for service in status["services"]:
        if service["name"] == SERVICE and status["ready"]:
            members = [(names.get(m["address"], m["address"]), m) for m in service["members"]]
            return ServiceStatus(
                digest=service["digest"],
                takers=frozenset(name for name, m in members if m["state"] == "up" and m["effective"] > 0),
                listed=frozenset(name for name, m in members if m["state"] not in ("left", "lost")),
                written=status["tables_written"],
            )
    return None


def tables_agree(statuses: Iterable[ServiceStatus | None], takers: frozenset[str], gone: frozenset[str]) -> bool:
    """Return whether all statuses are present, equal down to the rows' owners, as expected, and in use."""
    found = list(statuses)
    if len(set(found)) != 1 or not all(status and status.written for status in found):
        return False
    status = found[0]
    return status is not None and status.takers == takers and not gone & status.listed


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=REPLY_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class RequestError(Exception):
    """An agent that does not answer or refuses, in one line."""


def request(control_socket: Path, method: str, path: str) -> dict[str, Any]:
    """Send a request to an agent and return its reply. Raises RequestError."""
    connection = _UnixConnection(control_socket)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        body: dict[str, Any] = json.loads(reply.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RequestError(f"does not answer: {error}") from None
    finally:
        connection.close()
    if reply.status >= 400:
        raise RequestError(f"refuses {method} {path}: {body.get('error', reply.reason)}")
    return body
