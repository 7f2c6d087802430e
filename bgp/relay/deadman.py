# SPDX-License-Identifier: Apache-2.0
"""The dead-man: whether there is an agent, and what becomes of its VIPs when there is none.

An agent is gone when it has been silent for 10 s, or when it has sent a stop. Then its fallback replaces its identity,
and its VIPs are withdrawn, unless too few other nodes remain that announce them (quorum.py). After a stop they stay in
any case until the others' fallbacks have come, if they stop as well: SIGTERM to all agents at once must not withdraw
what kill -9 does not.

Pure, as is reconciler.py, which owns the instance. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.relay.adj_rib_in import NeighborRib
from bgp.relay.protocol import DesiredRoutes
from bgp.relay.quorum import Quorum

DEADMAN_S = 10.0
SETTLE_S = 0.5
"""How long the VIPs of an agent that stops stay in any case: routers pass the others' fallbacks on within 0.1 s."""
OBSERVE_S = 1.0
"""How often the remaining announcers are counted, which reads all their routes, while there is no agent."""


class DeadMan:
    """What the agent has sent last, and what follows from its silence or its stop.

    `desired`: its routes; None before the first. `fallback`: its fallback is announced (without any routes: everything
    is withdrawn). `keep_vips`: its VIPs stay next to it. `acted` and `held` are the same for the snapshot, once it is
    decided whether the VIPs stay.
    """

    def __init__(self, now: float) -> None:
        self.desired: DesiredRoutes | None = None
        self.fallback = self.keep_vips = self.acted = self.held = False
        self._desired_at = self._observe_at = now
        self._stopped_at: float | None = None
        self._quorum = Quorum()

    def receive(self, desired: DesiredRoutes, now: float) -> None:
        """Record the agent's routes, which are a heartbeat too."""
        self.desired, self._desired_at, self._stopped_at = desired, now, None
        self._quorum.reset(desired)

    def stop(self, now: float) -> None:
        """Record that the agent stops. No news of an agent that counts as gone, or of one without routes."""
        if self.desired is not None and not self.fallback:
            self._stopped_at, self._observe_at = now, now + SETTLE_S

    def tick(self, neighbors: Iterable[NeighborRib], now: float) -> bool:
        """Decide again; return whether `acted` or `held` has changed."""
        before = self.acted, self.held
        stopped = self._stopped_at is not None
        settling = self._stopped_at is not None and now < self._stopped_at + SETTLE_S
        self.fallback = stopped or now - self._desired_at > DEADMAN_S
        if self.fallback and now >= self._observe_at:
            self._observe_at = now + OBSERVE_S
            self._quorum.observe(neighbors, now)
        self.keep_vips = settling or (self.fallback and self.desired is not None and self._quorum.lost)
        self.acted, self.held = self.fallback and not settling, self.keep_vips and not settling
        return (self.acted, self.held) != before
