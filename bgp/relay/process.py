# SPDX-License-Identifier: Apache-2.0
"""The relay process: a helper of ExaBGP, between ExaBGP's pipes and the agent's socket.

Owns reading and writing; reconciler.py decides what is written. The relay must never do two things: stop reading from
ExaBGP, which blocks while its helper does not read, until the neighbors' hold timers end the sessions; and wait for an
agent (agent_connection.py). So every descriptor is non-blocking, and output to ExaBGP is buffered here.

Standard library only, and run from an archive in the run directory (helper_archive.py): it runs as an unprivileged
user, who may not be able to read the project.

    relay --socket PATH --agent-uid UID --allow PATH

Exit: 0 when ExaBGP closes its end or on SIGTERM. On any other exit ExaBGP starts a new relay and keeps its routes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from bgp.bfd.status import STATUS_NAME, decode_statuses
from bgp.errors import BgpError
from bgp.file_watch import WatchedFile
from bgp.helper_log import ERROR, INFO, WARNING, log
from bgp.peercred import peer_uid
from bgp.relay.agent_connection import AgentConnection, Hangup
from bgp.relay.allowlist import Allowlist
from bgp.relay.protocol import REPLACED, AgentStop
from bgp.relay.reconciler import SESSION_UP, Reconciler
from bgp.sd_notify import notify, status

COALESCE_S = 0.02
"""The least time between two batches: what changes within it shares one."""
TICK_S = 0.25
FEED_S = 1.0
SPEAKER_CONF = "exabgp.conf"
"""The relay signals ExaBGP, its parent, when this file in the run directory is replaced or touched."""
_CHUNK = 1 << 16


class Relay:
    """The event loop over ExaBGP's pipes, the agent's socket and the watched files."""

    def __init__(self, listener: socket.socket, agent_uid: int, run_dir: Path, allowlist: Allowlist) -> None:
        self._listener = listener
        self._bfd = WatchedFile(run_dir / STATUS_NAME)
        self._speaker_conf = WatchedFile(run_dir / SPEAKER_CONF)
        self._uids = {0, agent_uid}
        self._allowlist = allowlist
        self._reconciler = Reconciler(time.monotonic(), allowlist.advertised, allowlist.learned)
        self._agent: AgentConnection | None = None
        self._selector = selectors.DefaultSelector()
        self._from_exabgp = bytearray()
        self._to_exabgp = bytearray()
        self._sent_revision = -1
        self._report_at: float | None = None
        """When the agent gets the next batch; None if nothing has changed since the last one."""
        self._reported_at = float("-inf")
        self._logged: tuple[bool, bool, str | None] = (False, False, None)
        self._logged_revision = -1
        self._fed_at = float("-inf")
        self._logged_sessions: dict[str, str] = {}

    def run(self) -> int:
        """Run until ExaBGP closes its end; return the exit code."""
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        self._selector.register(0, selectors.EVENT_READ, self._read_exabgp)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        notify("READY=1")  # for lb-bgp.service: ExaBGP has read its configuration, and the agent can connect
        try:
            while not self._reconciler.hung(time.monotonic()):
                self._write_exabgp()
                self._write_agent()
                for key, _mask in self._selector.select(self._timeout()):
                    key.data()
                self._poll_files()
                self._reconciler.tick(time.monotonic())
                self._feed_watchdog(time.monotonic())
                self._log_changes()
        except (EOFError, BrokenPipeError):
            return 0
        return 1

    def _feed_watchdog(self, now: float) -> None:
        """Have systemd kill ExaBGP, and this helper with it, when it no longer answers."""
        if not self._reconciler.is_silent(now) and now - self._fed_at >= FEED_S:
            self._fed_at = now
            notify("WATCHDOG=1")

    def _poll_files(self) -> None:
        """Read the files that were replaced. Not less often: the end of a session is reported with BFD's state."""
        if (statuses := self._bfd.read_if_replaced()) is not None:
            self._reconciler.set_bfd(decode_statuses(statuses))
        if self._speaker_conf.was_touched():
            # Who writes it cannot signal a process of another user (bgp/exabgp/reload.py).
            os.kill(os.getppid(), signal.SIGUSR1)
        with contextlib.suppress(BgpError):  # the previous list stays in force
            if self._allowlist.reload():
                self._reconciler.set_allowed(self._allowlist.advertised, self._allowlist.learned, time.monotonic())

    def _log_changes(self) -> None:
        """Log the changes that an operator needs to find in the journal later."""
        if self._reconciler.revision == self._logged_revision:
            return
        self._logged_revision = self._reconciler.revision
        state = self._reconciler.agent_state
        if state != self._logged:
            deadman, held, error = self._logged = state
            text = error or (
                "there is no agent: announcing its fallback" if deadman else "all desired routes are in place"
            )
            if held and not error:
                text += ", and its VIPs: fewer than half of the announcers remain"
            log("relay", text, WARNING if error or deadman else INFO)
        sessions = self._reconciler.sessions()
        for address, text in sessions.items():
            if text != self._logged_sessions.get(address):
                log("relay", f"neighbor {address}: {text}", INFO if text == SESSION_UP else WARNING)
        self._logged_sessions = sessions
        notify(status(_status_line(sessions, deadman=state[0])))

    def _timeout(self) -> float:
        if self._report_at is None or self._agent is None or self._agent.busy:
            return TICK_S
        return max(0.0, min(TICK_S, self._report_at - time.monotonic()))

    def _read_exabgp(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(0, _CHUNK)
            if not data:
                raise EOFError
            self._from_exabgp += data
        *lines, self._from_exabgp = self._from_exabgp.split(b"\n")
        now = time.monotonic()
        for text in lines:
            self._reconciler.receive(text.decode(errors="replace"), now)

    def _write_exabgp(self) -> None:
        for command in self._reconciler.commands():
            self._to_exabgp += command.encode() + b"\n"
        with contextlib.suppress(BlockingIOError):
            while self._to_exabgp:
                del self._to_exabgp[: os.write(1, self._to_exabgp)]
        self._register(1, bool(self._to_exabgp), selectors.EVENT_WRITE, lambda: None)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _address = self._listener.accept()
            agent = AgentConnection(connection)
            uid = peer_uid(connection)
            if uid not in self._uids:
                agent.close(f"uid {uid} is neither root nor the agent's user")
                return
            self._hang_up(REPLACED)
            log("relay", "the agent connected")
            self._agent, self._sent_revision = agent, -1
            self._selector.register(connection, selectors.EVENT_READ, self._serve_agent)

    def _serve_agent(self) -> None:
        agent = self._agent
        if agent is None:
            return
        try:
            agent.send()
            for message in agent.read():
                if isinstance(message, AgentStop):
                    log("relay", "the agent stops")
                    self._reconciler.stop_agent(time.monotonic())
                else:
                    self._reconciler.set_desired(message, time.monotonic())
        except (Hangup, BgpError) as end:
            self._hang_up(str(end))
        except OSError:
            self._hang_up()

    def _write_agent(self) -> None:
        """Report the state if it has changed and the agent has read the last batch."""
        now = time.monotonic()
        if self._reconciler.revision == self._sent_revision or not self._reconciler.ready:
            self._report_at = None
        elif self._report_at is None:
            # The first change after a quiet time is reported at once, what follows it together.
            self._report_at = now if self._sent_revision < 0 else max(now, self._reported_at + COALESCE_S)
        agent = self._agent
        if agent is None:
            return
        if self._report_at is not None and now >= self._report_at and not agent.busy:
            self._sent_revision, self._report_at, self._reported_at = self._reconciler.revision, None, now
            agent.report(self._reconciler.snapshot())
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if agent.busy else 0)
        if mask != self._selector.get_key(agent.connection).events:
            self._selector.modify(agent.connection, mask, self._serve_agent)

    def _hang_up(self, reason: str = "") -> None:
        if self._agent is not None:
            log("relay", f"the agent's connection ended{': ' if reason else ''}{reason}")
            self._selector.unregister(self._agent.connection)
            self._agent.close(reason)
            self._agent = None

    def _register(self, descriptor: int, wanted: bool, mask: int, callback: object) -> None:
        registered = descriptor in self._selector.get_map()
        if wanted and not registered:
            self._selector.register(descriptor, mask, callback)
        elif registered and not wanted:
            self._selector.unregister(descriptor)


def _status_line(sessions: Mapping[str, str], deadman: bool) -> str:
    """Return the line of `systemctl status lb-bgp`."""
    what = "there is no agent" if deadman else "the agent's routes are announced"
    return f"{what}; sessions: {'; '.join(f'{address}: {text}' for address, text in sessions.items()) or 'none yet'}"


def listen(path: Path) -> socket.socket:
    """Open the socket at `path`, renamed into place, so that it exists at all times when one relay follows another."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    listener.bind(str(aside))
    # The agent needs write permission to connect; its unit lacks CAP_DAC_OVERRIDE, so root is a user among others. The
    # folder keeps others out where the agent is root, and SO_PEERCRED admits only the agent's user anywhere.
    aside.chmod(0o666)
    listener.listen(4)
    aside.rename(path)
    return listener


def main() -> int:
    """Run as ExaBGP's helper."""
    parser = argparse.ArgumentParser(prog="relay")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--agent-uid", type=int, required=True)
    parser.add_argument("--allow", type=Path, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        allowlist = Allowlist(arguments.allow)
        listener = listen(arguments.socket)
    except OSError as error:
        log("relay", f"{arguments.socket}: {error.strerror}", ERROR)
        return 1
    except BgpError as error:
        log("relay", str(error), ERROR)
        return 1
    return Relay(listener, arguments.agent_uid, arguments.socket.parent, allowlist).run()
