# SPDX-License-Identifier: Apache-2.0
"""The controller of the lab's client: the other end of the control socket of traffic/__main__.py.

Owns the JSON of the commands and the typed form of the replies; decides nothing.
"""

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from topology.errors import LabError

#: A reply takes milliseconds, or seconds if others have all CPUs. Without one for so long the client is gone or stuck.
REPLY_S = 60.0


@dataclass(frozen=True, slots=True)
class TrafficProgress:
    """The progress of the traffic; traffic/__main__.py explains the fields."""

    opening: int
    open: int
    unsettled: int
    pending: int
    lag_s: float


@dataclass(frozen=True, slots=True)
class HeldConnectionReport:
    """The client's report of one held connection.

    `source` is its `address:port`, `state` a value of ConnectionState; times are CLOCK_MONOTONIC seconds.
    """

    source: str
    owner: str
    state: str
    reason: str = ""
    ended_at: float = 0.0
    silence_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ConnectionAttemptReport:
    """The client's report of one new connection: `outcome` is `ok`, why it failed, or empty while it is under way."""

    started_at: float
    outcome: str
    owner: str = ""


class TrafficController:
    """A connection to a running `python -m topology.traffic`. Closing it ends that program."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(REPLY_S)
        self._lines = sock.makefile("rb")

    @classmethod
    def connect(cls, path: Path, timeout_s: float = 60.0) -> Self:
        """Connect as soon as the program listens at `path`; raise LabError if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(path))
            except OSError as error:
                sock.close()
                if time.monotonic() > deadline:
                    raise LabError(
                        f"the traffic client does not listen at {path}: {error.strerror}; see its log"
                    ) from None
                time.sleep(0.02)
            else:
                return cls(sock)

    def begin(self) -> None:
        """Drop ended connections: a new step."""
        self._request({"do": "begin"})

    def open(self, count: int) -> None:
        """Hold `count` more connections; `progress` counts those that are open."""
        self._request({"do": "open", "count": count})

    def fresh(self, per_s: float) -> None:
        """Open new connections at this rate from now on."""
        self._request({"do": "fresh", "per_s": per_s})

    def close_held(self, owner: str | None = None) -> int:
        """Close the held connections of one server, or all; return how many."""
        return int(self._request({"do": "close", "owner": owner})["closed"])

    def progress(self, since: float = 0.0, but: Iterable[str] = ()) -> TrafficProgress:
        """Return the progress of the traffic since a moment; connections from the sources `but` are not unsettled."""
        return TrafficProgress(**self._request({"do": "state", "since": since, "but": list(but)}))

    def report(self) -> tuple[list[HeldConnectionReport], list[ConnectionAttemptReport]]:
        """Return every connection since `begin`."""
        reply = self._request({"do": "report"})
        return [HeldConnectionReport(**held) for held in reply["held"]], [
            ConnectionAttemptReport(*one) for one in reply["attempts"]
        ]

    def quit(self) -> None:
        """End the program."""
        self._lines.close()
        self._socket.close()

    def _request(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps(command).encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise LabError(f"the traffic client does not answer: {error}; see its log") from None
        if not line:
            raise LabError("the traffic client ended; see its log")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise LabError(f"the traffic client: {reply['error']}")
        return reply
