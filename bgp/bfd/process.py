# SPDX-License-Identifier: Apache-2.0
"""The BFD process: a helper of ExaBGP that monitors the path to each neighbor; ExaBGP restarts it when it dies.

Owns clock, sockets and pipes; session.py decides. It is a process of its own, so that a restart of the agent or the
relay does not disturb a session. When a path fails, it sends ExaBGP a command:

    neighbor 10.0.0.1 teardown 10

The BGP session ends with the NOTIFICATION Cease, subcode "BFD Down" (RFC 9384), and its routes are removed, as when a
link fails. It never blocks: every descriptor is non-blocking, and ExaBGP's output is read and discarded, because a
helper that does not read would block ExaBGP.

Standard library only, and run from an archive in the run directory (helper_archive.py), as the relay is.

    bfd --run-dir PATH

Exit: 0 when ExaBGP closes its end or on SIGTERM. AdminDown to each neighbor then shows that this is no failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import selectors
import signal
import socket
import time
from pathlib import Path

from bgp.bfd import udp
from bgp.bfd.config import CONFIG_NAME, BfdPeer, decode_peers
from bgp.bfd.neighbor import DIAGNOSTICS, BfdNeighbor, session_timers, source_key
from bgp.bfd.packet import SessionState, decode
from bgp.bfd.session import StateChange
from bgp.bfd.status import STATUS_NAME, BfdStatus, encode_statuses
from bgp.errors import BgpError
from bgp.file_watch import WatchedFile, replace_file
from bgp.helper_log import INFO, WARNING, log

HOUSEKEEPING_S = 1.0
"""How often the configuration is polled, and sockets that could not be opened are retried."""
BFD_DOWN = 10
"""The subcode "BFD Down" of Cease (RFC 9384)."""
_PACKETS_AT_ONCE = 64
"""Read from one socket before timers are handled: more than neighbors ever have queued, less than a flood."""


def _receiver_key(peer: BfdPeer) -> tuple[str, bool]:
    """Return what the neighbors share that are received by one socket."""
    return peer.local_address, peer.multihop > 0


class BfdProcess:
    """The event loop over sockets, timers and ExaBGP's pipes."""

    def __init__(self, run_dir: Path) -> None:
        self._config = WatchedFile(run_dir / CONFIG_NAME)
        self._status_path = run_dir / STATUS_NAME
        self._selector = selectors.DefaultSelector()
        self._neighbors: dict[str, BfdNeighbor] = {}
        self._receivers: dict[tuple[str, bool], tuple[udp.Endpoint, socket.socket]] = {}
        self._min_ttls: dict[tuple[str, bool], int] = {}
        """What the socket filters require, by receiver."""
        self._written: dict[str, BfdStatus] | None = None
        self._to_exabgp = bytearray()

    def run(self) -> int:
        """Run until ExaBGP closes its end; return the exit code."""
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        self._selector.register(0, selectors.EVENT_READ, self._read_exabgp)
        housekeeping_at = 0.0
        try:
            while True:
                now = time.monotonic()
                if now >= housekeeping_at:
                    housekeeping_at = now + HOUSEKEEPING_S
                    self._maintain(now)
                self._handle_timers(now)
                self._write_exabgp()
                due = min((n.session.next_timer() for n in self._neighbors.values()), default=housekeeping_at)
                timeout = max(0.0, min(due, housekeeping_at) - time.monotonic())
                # Packets first, then timers: after a stall of this process, its own delay must not look like silence.
                for key, _mask in self._selector.select(timeout):
                    key.data()
        except (EOFError, BrokenPipeError):
            pass
        for address in list(self._neighbors):
            self._drop(address)
        self._write_statuses()
        return 0

    def _maintain(self, now: float) -> None:
        text = self._config.read_if_replaced()
        if text:
            try:
                self._configure({peer.address: peer for peer in decode_peers(text)}, now)
            except BgpError as problem:
                log("bfd", str(problem), WARNING)
        for neighbor in self._neighbors.values():
            neighbor.error = neighbor.open() or self._open_receiver(neighbor.peer)

    def _configure(self, peers: dict[str, BfdPeer], now: float) -> None:
        """Replace the set of neighbors; a neighbor that changes only its timers stays up."""
        for address, neighbor in list(self._neighbors.items()):
            peer, old = peers.get(address), neighbor.peer
            if peer is None or _receiver_key(peer) != _receiver_key(old):
                self._drop(address)
            elif peer != old:
                neighbor.peer = peer
                neighbor.session.set_timers(session_timers(peer), now)
        for address, peer in peers.items():
            if address not in self._neighbors:
                self._neighbors[address] = BfdNeighbor(peer, self._new_discriminator(), now)
        for key in self._receivers.keys() - set(map(_receiver_key, peers.values())):
            self._close_receiver(key)

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

    def _open_receiver(self, peer: BfdPeer) -> str | None:
        """Open the receiving socket of a neighbor; return why that failed, or None."""
        key = _receiver_key(peer)
        try:
            _, local = udp.endpoint(peer.local_address, 0)
            if key in self._receivers:
                if self._receivers[key][0] == local:
                    return None
                self._close_receiver(key)  # another interface has the name now
            opened = udp.open_receiver(*key)
        except OSError as problem:
            return f"cannot receive on {peer.local_address}: {problem.strerror or problem}"
        self._receivers[key] = local, opened
        self._selector.register(opened, selectors.EVENT_READ, lambda: self._receive(opened))
        return None

    def _close_receiver(self, key: tuple[str, bool]) -> None:
        _, opened = self._receivers.pop(key)
        self._min_ttls.pop(key, None)
        self._selector.unregister(opened)
        opened.close()

    def _receive(self, opened: socket.socket) -> None:
        now = time.monotonic()
        for _ in range(_PACKETS_AT_ONCE):
            received = udp.receive(opened)
            if received is None:
                return
            data, source, ttl = received
            key, packet = source_key(source), decode(data)
            for neighbor in self._neighbors.values():
                if packet is not None and neighbor.key == key:
                    neighbor.receive(packet, ttl, now)

    def _handle_timers(self, now: float) -> None:
        for neighbor in self._neighbors.values():
            neighbor.session.handle_timer(now)
            neighbor.send()
            for change in neighbor.session.changes():
                neighbor.since = now
                self._report(neighbor.peer, change)
        self._require_ttls()
        self._write_statuses()

    def _require_ttls(self) -> None:
        """Have each socket drop what is none of its neighbors'."""
        for key, (_, opened) in self._receivers.items():
            least = min((n.min_ttl for n in self._neighbors.values() if _receiver_key(n.peer) == key), default=0)
            if self._min_ttls.get(key) != least:
                udp.require_ttl(opened, least)
                self._min_ttls[key] = least

    def _write_statuses(self) -> None:
        statuses = {neighbor.peer.name: neighbor.status() for neighbor in self._neighbors.values()}
        if statuses != self._written:
            try:
                replace_file(self._status_path, encode_statuses(statuses))
            except OSError as problem:
                log("bfd", f"{self._status_path}: {problem.strerror}", WARNING)
            self._written = statuses

    def _report(self, peer: BfdPeer, change: StateChange) -> None:
        why = f": {DIAGNOSTICS[change.diagnostic]}" if change.new is not SessionState.UP and change.diagnostic else ""
        if SessionState.UP in (change.old, change.new):
            level = INFO if change.new is SessionState.UP else WARNING
            log("bfd", f"{peer.address} is {change.new}{why}", level)
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
    process = BfdProcess(parser.parse_args().run_dir)
    signal.signal(signal.SIGTERM, _terminate)
    return process.run()


def _terminate(*_: object) -> None:
    """Stop as if ExaBGP had closed its end: it is about to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise EOFError
