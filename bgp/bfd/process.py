# SPDX-License-Identifier: Apache-2.0
"""The BFD process: a helper of ExaBGP, which starts it again when it dies, that watches the path to each neighbor.

Owns clock, sockets and pipes; session.py decides. It is a process of its own, so that neither an agent nor a relay that is
started again disturbs a session. ExaBGP's pipe is where it says what a dead path means:

    neighbor 10.0.0.1 teardown 10

The BGP session ends with Cease, subcode "BFD Down" (RFC 9384), and so do the routes learned in it, as when a link
fails. It never waits for anyone: every descriptor is non-blocking, and what ExaBGP says is read and thrown away, since
a helper that does not read would block ExaBGP.

Standard library only, and run from an archive in the run directory (helper_archive.py), as the relay is.

    bfd --run-dir PATH

Exit: 0 when ExaBGP closes its end or on SIGTERM; neighbors are told that this is no failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import selectors
import signal
import socket
import time
from pathlib import Path

from bgp.bfd import sockets
from bgp.bfd.files import CONFIG_NAME, STATE_NAME, BfdPeer, BfdState, decode_peers, encode_states
from bgp.bfd.packet import Diagnostic, SessionState, decode
from bgp.bfd.session import BfdSession, StateChange, Timers
from bgp.errors import BgpError
from bgp.file_watch import WatchedFile, replace
from bgp.helper_log import log

HOUSEKEEPING_S = 1.0
"""How often the configuration is looked at, and sockets that could not be opened are tried again."""
BFD_DOWN = 10
"""The subcode of Cease (RFC 9384)."""
_PACKETS_AT_ONCE = 64
"""Read from one socket before timers are looked at: more than neighbors ever have sent, less than a flood."""
_WORDS = {
    Diagnostic.NONE: "",
    Diagnostic.TIME_EXPIRED: "the neighbor was silent for too long",
    Diagnostic.NEIGHBOR_DOWN: "the neighbor says that the path is down, or is being taken down",
    Diagnostic.ADMIN_DOWN: "taken down here",
}


class BfdNeighbor:
    """One neighbor: its session, and the socket that speaks for it."""

    def __init__(self, peer: BfdPeer, discriminator: int, now: float) -> None:
        self.peer = peer
        self.session = BfdSession(discriminator, timers(peer), now, random.random)
        self.since = now
        self.error: str | None = None
        self.key: tuple[bytes, int] | None = None
        """Where its packets come from: address and, if that is link-local, interface. None while it cannot be."""
        self._to: sockets.Endpoint = ()
        self._socket: socket.socket | None = None

    def open(self) -> str | None:
        """Be able to send, or say why that cannot be."""
        port = sockets.MULTIHOP_PORT if self.peer.multihop else sockets.SINGLE_HOP_PORT
        try:
            _, to = sockets.endpoint(self.peer.address, port)
            if self._socket is not None and to == self._to:
                return None
            self.close()
            self._to = to
            self._socket = sockets.sender(self.peer.local_address)
            self.key = source_of(self._to)
        except OSError as problem:
            return f"{self.peer.local_address}: {problem.strerror or problem}"
        return None

    def close(self) -> None:
        """Stop sending."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self.key = None

    def send(self) -> None:
        """Send what the session has to say. A packet that cannot leave is a lost one: the neighbor will notice."""
        for packet in self.session.outgoing():
            if self._socket is not None:
                try:
                    self._socket.sendto(packet.encode(), self._to)
                except OSError:
                    # A socket that was bound before there was a way there sends from any address. What is Up is left
                    # to the detection time.
                    if self.session.state is not SessionState.UP:
                        self.close()

    def state(self) -> BfdState:
        """What to tell of it."""
        session = self.session
        diagnostic = _WORDS[session.diagnostic]
        times = session.transmit_us / 1000, session.detection_us / 1000
        return BfdState(str(session.state), self.since, diagnostic, *times, error=self.error)


def timers(peer: BfdPeer) -> Timers:
    """A neighbor's timers as configured."""
    return Timers(peer.interval_ms * 1000, peer.multiplier)


def source_of(endpoint: sockets.Endpoint) -> tuple[bytes, int]:
    """What tells neighbors apart: the address, and the interface of a link-local one."""
    host = str(endpoint[0])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host), int(endpoint[3]) if len(endpoint) > 3 else 0


class Process:
    """The loop."""

    def __init__(self, run_dir: Path) -> None:
        self._config = WatchedFile(run_dir / CONFIG_NAME)
        self._state_path = run_dir / STATE_NAME
        self._selector = selectors.DefaultSelector()
        self._neighbors: dict[str, BfdNeighbor] = {}
        self._listeners: dict[tuple[str, bool], tuple[sockets.Endpoint, socket.socket]] = {}
        self._written: dict[str, BfdState] | None = None
        self._to_exabgp = bytearray()

    def run(self) -> int:
        """Watch until ExaBGP goes away; returns the exit code."""
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        self._selector.register(0, selectors.EVENT_READ, self._read_exabgp)
        housekeeping_at = 0.0
        try:
            while True:
                now = time.monotonic()
                if now >= housekeeping_at:
                    housekeeping_at = now + HOUSEKEEPING_S
                    self._keep_house(now)
                self._handle_timers(now)
                self._write_exabgp()
                due = min((n.session.next_timer() for n in self._neighbors.values()), default=housekeeping_at)
                timeout = max(0.0, min(due, housekeeping_at) - time.monotonic())
                # Packets first, then timers: had this process been stopped for a while, the neighbor was not silent.
                for key, _mask in self._selector.select(timeout):
                    key.data()
        except (EOFError, BrokenPipeError):
            pass
        for address in list(self._neighbors):
            self._drop(address)
        self._tell_states()
        return 0

    def _keep_house(self, now: float) -> None:
        text = self._config.news()
        if text:
            try:
                self._configure({peer.address: peer for peer in decode_peers(text)}, now)
            except BgpError as problem:
                log("bfd", str(problem))
        for neighbor in self._neighbors.values():
            neighbor.error = neighbor.open() or self._listen(neighbor.peer)

    def _configure(self, peers: dict[str, BfdPeer], now: float) -> None:
        """Watch these; a neighbor of which only the timers change stays up."""
        for address, neighbor in list(self._neighbors.items()):
            peer, old = peers.get(address), neighbor.peer
            if peer is None or (peer.local_address, peer.multihop) != (old.local_address, old.multihop):
                self._drop(address)
            elif peer != old:
                neighbor.peer = peer
                neighbor.session.set_timers(timers(peer), now)
        for address, peer in peers.items():
            if address not in self._neighbors:
                self._neighbors[address] = BfdNeighbor(peer, self._new_discriminator(), now)
        wanted = {(peer.local_address, peer.multihop) for peer in peers.values()}
        for key in self._listeners.keys() - wanted:
            self._stop_listening(key)

    def _new_discriminator(self) -> int:
        taken = {0, *(neighbor.session.discriminator for neighbor in self._neighbors.values())}
        while (number := secrets.randbits(32)) in taken:
            pass
        return number

    def _drop(self, address: str) -> None:
        neighbor = self._neighbors.pop(address)
        neighbor.session.shut(time.monotonic())
        neighbor.send()
        neighbor.close()

    def _listen(self, peer: BfdPeer) -> str | None:
        """Be able to hear a neighbor, or say why that cannot be."""
        key = peer.local_address, peer.multihop
        try:
            _, at = sockets.endpoint(peer.local_address, 0)
            if key in self._listeners:
                if self._listeners[key][0] == at:
                    return None
                self._stop_listening(key)  # another interface has the name now
            opened = sockets.listener(*key)
        except OSError as problem:
            return f"cannot hear packets to {peer.local_address}: {problem.strerror or problem}"
        self._listeners[key] = at, opened
        self._selector.register(opened, selectors.EVENT_READ, lambda: self._hear(opened))
        return None

    def _stop_listening(self, key: tuple[str, bool]) -> None:
        _, opened = self._listeners.pop(key)
        self._selector.unregister(opened)
        opened.close()

    def _hear(self, opened: socket.socket) -> None:
        now = time.monotonic()
        for _ in range(_PACKETS_AT_ONCE):
            received = sockets.receive(opened)
            if received is None:
                return
            data, source = received
            key, packet = source_of(source), decode(data)
            for neighbor in self._neighbors.values():
                if packet is not None and neighbor.key == key:
                    neighbor.session.receive(packet, now)

    def _handle_timers(self, now: float) -> None:
        for neighbor in self._neighbors.values():
            neighbor.session.handle_timer(now)
            neighbor.send()
            for change in neighbor.session.changes():
                neighbor.since = now
                self._changed(neighbor.peer, change)
        self._tell_states()

    def _tell_states(self) -> None:
        states = {neighbor.peer.name: neighbor.state() for neighbor in self._neighbors.values()}
        if states != self._written:
            try:
                replace(self._state_path, encode_states(states))
            except OSError as problem:
                log("bfd", f"{self._state_path}: {problem.strerror}")
            self._written = states

    def _changed(self, peer: BfdPeer, change: StateChange) -> None:
        why = f": {_WORDS[change.diagnostic]}" if change.new is not SessionState.UP and change.diagnostic else ""
        if SessionState.UP in (change.old, change.new):
            log("bfd", f"{peer.address} is {change.new}{why}")
        if change.failure:
            self._to_exabgp += f"neighbor {peer.name} teardown {BFD_DOWN}\n".encode()

    def _read_exabgp(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(0, 1 << 16):
                raise EOFError

    def _write_exabgp(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._to_exabgp:
                del self._to_exabgp[: os.write(1, self._to_exabgp)]


def main() -> int:
    """Run as ExaBGP's helper."""
    parser = argparse.ArgumentParser(prog="bfd")
    parser.add_argument("--run-dir", type=Path, required=True)
    process = Process(parser.parse_args().run_dir)
    signal.signal(signal.SIGTERM, _terminate)
    return process.run()


def _terminate(*_: object) -> None:
    """End as if ExaBGP had gone: it is about to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise EOFError
