# SPDX-License-Identifier: Apache-2.0
"""ExaBGP's main program, with connection attempts that are bounded in time, and that report why they fail.

ExaBGP 5 has no setting and no command for either. Its pause between attempts grows to a minute, also while nothing
answers, so a router that comes back waits for up to a minute; an attempt at a silent router lasts as long as the kernel
sends SYNs, ever more rarely; and its helper learns "closing connection", or nothing, of a failed attempt. A listening
socket alone would not do: routers wait longer still before they connect (BIRD 5 s, FRR up to 120 s). And it closes a
connection at a failed write, before it has read the router's NOTIFICATION, which has the reason. So two of
ExaBGP's classes are replaced by the subclasses below before its main function runs, and the format of its log lines,
which have no severity, and pass on whatever a router sends; the rest of it is unchanged.

    nothing answers   try again at once, for ATTEMPT_S each time, in which SYN or ARP go out every second or two
    refused           try again RETRY_S after the attempt began: it costs the router one packet
    rejected          by a NOTIFICATION or a close: at once, then 1 s later, then ever more, at most MAX_PAUSE_S

    python -P -m bgp.exabgp.connect server /run/anylb-bgp/exabgp.conf
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from exabgp.application.main import main
from exabgp.bgp.fsm import FSM
from exabgp.reactor import loop, protocol
from exabgp.reactor.api.processes import ProcessError
from exabgp.reactor.network.error import LostConnection, NetworkError, error
from exabgp.reactor.network.outgoing import Outgoing
from exabgp.reactor.peer import Peer

from bgp.helper_log import ERROR, WARNING, mark
from bgp.printable import escaped

ATTEMPT_S = 3.5
"""Longer than the 3 s after which Linux reports that ARP or neighbor discovery found no one."""
RETRY_S = 1.0
MAX_PAUSE_S = 10.0

_REASONS = {
    errno.ECONNREFUSED: "connection refused: no BGP daemon accepts it there",
    errno.EHOSTUNREACH: "unreachable: no answer to ARP or neighbor discovery, or a router on the path reports it",
    errno.ENETUNREACH: "unreachable: no route to the network",
}
_NO_ANSWER = "timed out: no answer; the router is down, a filter drops it, or its TCP MD5 password differs"


class ConnectError(NetworkError):  # type: ignore[misc]
    """An attempt to connect failed; the next may follow after `pause_s`."""

    def __init__(self, reason: str, pause_s: float) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class BoundedOutgoing(Outgoing):  # type: ignore[misc]
    """A connection to a router: one attempt, which fails with a reason."""

    io: Any
    local: Any

    def establish(self) -> Iterator[bool]:
        """Yield False while the attempt lasts, then True. ConnectError if it fails."""
        began = time.monotonic()
        if problem := self._connect():
            raise ConnectError(str(problem), RETRY_S)
        poller = select.poll()
        poller.register(self.io, select.POLLOUT)
        while not poller.poll(0):
            if time.monotonic() - began > ATTEMPT_S:
                self._abandon(_NO_ANSWER, 0.0)
            yield False
        if number := self.io.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            pause_s = max(0.0, began + RETRY_S - time.monotonic())
            self._abandon(_REASONS.get(number, os.strerror(number)), pause_s)
        self.success()
        self.local = self.local or self.io.getsockname()[0]
        yield True

    def writer(self, data: bytes) -> Iterator[bool]:
        """Yield False while data are sent, then True: also if the connection has ended, for the reader reports that.

        ExaBGP would close the socket, and lose what the router sent before the end: most of the time a NOTIFICATION.
        Linux keeps it for the reader. LostConnection if the data cannot be sent though the connection has not ended.
        """
        while self.io and data:
            try:
                data = data[self.io.send(data) :]
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                break
            except OSError as problem:
                if problem.errno not in error.block:
                    self.close()
                    raise LostConnection(f"problem while sending: {problem.strerror}") from None
            if data:
                yield False
        yield True

    def _abandon(self, reason: str, pause_s: float) -> None:
        # Not by close(), which logs two lines: attempts follow each other as long as the router is away.
        self.io.close()
        self.io = None
        raise ConnectError(reason, pause_s)


class Pause:
    """The pause before the next attempt, in place of exabgp.reactor.delay.Delay; `next_s` is the one after this."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Allow the next attempt now, and the one after it too."""
        self.wait(0.0)

    def wait(self, seconds: float) -> None:
        """Allow the next attempt after a time, and the one after it at once."""
        self._until, self.next_s = time.monotonic() + seconds, 0.0

    def increase(self) -> None:
        """Begin the pause, and make the next one longer."""
        self._until = time.monotonic() + self.next_s
        self.next_s = min(2 * self.next_s or RETRY_S, MAX_PAUSE_S)

    def backoff(self) -> bool:
        """Return whether the pause lasts."""
        return time.monotonic() < self._until


class ReportingPeer(Peer):  # type: ignore[misc]
    """A neighbor: each end of a session and each failed attempt reaches the helpers, with the reason and the pause."""

    def __init__(self, neighbor: object, reactor: object) -> None:
        super().__init__(neighbor, reactor)
        self._delay = Pause()

    def _close(self, message: str = "", error: object = "") -> None:
        failed = error if isinstance(error, ConnectError) else None
        reason = f"{message}: {error}" if str(error) else message
        if self._restart and not self.neighbor["passive"]:
            pause_s = RETRY_S if failed else max(RETRY_S, self._delay.next_s)
            reason += f"; next try within {pause_s:.0f} s"
        if failed is not None and self.fsm in (FSM.IDLE, FSM.ACTIVE):  # in other states ExaBGP itself reports
            self._report(reason)
        super()._close(reason, error)
        if failed is not None:
            self._delay.wait(failed.pause_s)

    def _report(self, reason: str) -> None:
        if self.neighbor.api["neighbor-changes"]:
            with contextlib.suppress(ProcessError, KeyError):  # a lost helper: the reactor notices it by itself
                self.reactor.processes.down(self.neighbor, reason)


def log_line(message: str, source: str, level: str, timestamp: object) -> str:
    """Return a line of ExaBGP's log. It logs warnings, errors, and worse (renderer.py)."""
    severity = WARNING if level == "WARNING" else ERROR
    return mark(severity) + f"{source:<15} {escaped(message)}"


def install() -> None:
    """Replace ExaBGP's classes and its format of log lines in the modules that use them."""
    loop.Peer = ReportingPeer
    protocol.Outgoing = BoundedOutgoing
    sys.modules["exabgp.logger.option"].formater = lambda short, destination: log_line  # type: ignore[attr-defined]


if __name__ == "__main__":
    install()
    main()
