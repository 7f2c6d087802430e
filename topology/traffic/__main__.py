# SPDX-License-Identifier: Apache-2.0
"""The lab's client: holds many connections open, opens new ones at a steady rate, and counts those that break.

Runs inside the client node (`python -m topology.traffic`) and receives commands over a unix socket from controller.py.
Owns the clock and the commands; sockets.py owns the sockets, connection.py the judgment of a connection.

One JSON object per line in each direction; each command gets exactly one reply, at once:

    {"do": "begin"}                   drop ended connections: a new step
    {"do": "open", "count": 400}      hold so many more, each from a source address and port of its own
    {"do": "fresh", "per_s": 50}      the rate of new connections from now on
    {"do": "close", "owner": "b2"}    close the held connections of that server, null: all → {"closed"}
    {"do": "state", "since": T, "but": [SOURCE]}    → {"opening", "open", "unsettled", "pending", "lag_s"}
    {"do": "report"}                  → {"held": [{"owner", "state", ...}], "attempts": [[started_at, outcome, owner]]}

`unsettled` are held connections without an answer to a message sent after T, other than those from the sources `but`,
`pending` new ones begun before T that have not ended, `lag_s` is how late this program itself was at worst: a silence
no longer than that proves nothing.
The end of the controller's stream ends the program: traffic never outlives its controller.
"""

import argparse
import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topology.traffic.connection import ATTEMPT_S, SILENCE_S, ConnectionState
from topology.traffic.server import PORT
from topology.traffic.sockets import TICK_S, ClientSockets, sources

#: Behind by more than this, the loop skips the missed steps instead of sending them in one burst.
CATCH_UP_S = 0.5


class TrafficLoop:
    """The event loop over the client's sockets and one controller."""

    def __init__(self, sockets: ClientSockets, epoll: select.epoll, control: socket.socket) -> None:
        self._sockets = sockets
        self._epoll = epoll
        self._control = control
        self._data = b""
        self._lag_s = 0.0
        self._running = True
        epoll.register(control.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Run until the controller closes its end."""
        next_tick = time.monotonic()
        while self._running:
            events = self._epoll.poll(max(0.0, next_tick - time.monotonic()))
            now = time.monotonic()
            for descriptor, _event in events:
                if descriptor == self._control.fileno():
                    self._receive(now)
                else:
                    self._sockets.handle_event(descriptor, now)
            self._lag_s = max(self._lag_s, now - next_tick)
            if now - next_tick > CATCH_UP_S:
                next_tick = now
            while next_tick <= now:
                self._sockets.tick(now)
                next_tick += TICK_S

    def _receive(self, now: float) -> None:
        data = self._control.recv(65536)
        if not data:
            self._running = False
            return
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            reply = self._execute(json.loads(line), now)
            # A few hundred kilobytes at most, and the controller waits for them.
            self._control.sendall(json.dumps(reply).encode() + b"\n")

    def _execute(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        match command["do"]:
            case "begin":
                self._sockets.begin()
                self._lag_s = 0.0
            case "open":
                self._sockets.to_open += command["count"]
            case "fresh":
                self._sockets.fresh_per_s = command["per_s"]
            case "close":
                return {"closed": self._sockets.close(command["owner"], now)}
            case "state":
                return self._state(command["since"], frozenset(command["but"]))
            case "report":
                return self._report(now)
            case unknown:
                return {"error": f"unknown command {unknown}"}
        return {}

    def _state(self, since: float, but: frozenset[str]) -> dict[str, Any]:
        held = self._sockets.held
        return {
            "opening": self._sockets.to_open + sum(one.state is ConnectionState.OPENING for one in held),
            "open": sum(one.state is ConnectionState.OPEN for one in held),
            "unsettled": sum(not one.settled(since) and one.source not in but for one in held),
            "pending": sum(one.started_at < since for one in self._sockets.attempts if not one.outcome),
            "lag_s": self._lag_s,
        }

    def _report(self, now: float) -> dict[str, Any]:
        return {
            "held": [
                {
                    "source": one.source,
                    "owner": one.owner,
                    "state": one.state.value,
                    "reason": one.reason,
                    "ended_at": one.ended_at,
                    "silence_s": one.silence_s(now),
                }
                for one in self._sockets.held
            ],
            "attempts": [[one.started_at, one.outcome, one.owner] for one in self._sockets.attempts],
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Listen for one controller on a unix socket, serve it until it closes; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m topology.traffic", description="The lab's client.")
    parser.add_argument("--control", type=Path, required=True, help="path of the unix socket to listen on")
    parser.add_argument("--vip", default="10.99.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--source", default="10.1.1", help="first three octets of the source addresses")
    parser.add_argument("--silence", type=float, default=SILENCE_S, help="seconds until a silent connection is broken")
    parser.add_argument("--attempt", type=float, default=ATTEMPT_S, help="seconds that a new connection may take")
    options = parser.parse_args(argv)
    with socket.socket(socket.AF_UNIX) as listener:
        options.control.unlink(missing_ok=True)
        listener.bind(str(options.control))
        listener.listen(1)
        listener.settimeout(60)  # without a controller, its starter is gone
        with contextlib.suppress(TimeoutError):
            control, _ = listener.accept()
            control.setblocking(True)
            offset = int(time.monotonic() * 10) % 10_000
            epoll = select.epoll()
            target = (options.vip, options.port)
            sockets = ClientSockets(target, sources(options.source, offset), epoll, options.silence, options.attempt)
            TrafficLoop(sockets, epoll, control).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
