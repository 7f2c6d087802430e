# SPDX-License-Identifier: Apache-2.0
"""The journal's lines about BGP sessions: which came up or went down, and why."""

from __future__ import annotations

import logging

from bgp.relay.protocol import Snapshot

log = logging.getLogger("anylb")


class SessionLog:
    """Compares each snapshot of the relay with the one before."""

    def __init__(self) -> None:
        self._up: dict[str, bool] = {}
        self._connected = True

    def observe(self, snapshot: Snapshot | None, connected: bool) -> None:
        """Log what has changed."""
        if connected != self._connected:
            self._connected = connected
            level = logging.INFO if connected else logging.WARNING
            log.log(level, "the relay is %s", "connected" if connected else "away: the routes stay for 10 s")
        if snapshot is None or not connected or snapshot.silent:
            return
        for peer in snapshot.peers:
            if self._up.get(peer.address) != peer.up:
                if peer.up:
                    log.info("BGP session with %s is up", peer.address)
                elif peer.address in self._up:
                    log.warning("BGP session with %s is down: %s", peer.address, peer.why or "no reason is known")
        self._up = {peer.address: peer.up for peer in snapshot.peers}
