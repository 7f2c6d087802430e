# SPDX-License-Identifier: Apache-2.0
"""The floor below which the dead-man withdraws nothing: too few others would be left to announce the VIPs.

An agent that falls silent alone is a dead node, and its VIPs go. When most agents fall silent (a release that crashes,
a configuration that none can read), every relay withdrawing would take the whole service away, though the data paths
live on in the kernels and could serve. So the VIPs stay while fewer than half of the announcers remain that the agent
last named. That includes a node that announces alone: nobody could take its place.

A node remains if its identity is learned and says that it announces. The fallback of a silent agent does not say so,
whether its VIPs stay or not. So what one relay decides does not change what the next one sees: no two of them can take
turns for ever. In a cluster whose agents fall silent one after the other, the first half withdraws, and announces again
when the rest has fallen silent too.

Pure, as reconciler.py is, which asks it. Standard library only: the relay carries this file (helper_archive.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.community import decode
from bgp.relay.adj_rib_in import NeighborRib
from bgp.relay.protocol import DesiredRoutes
from bgp.route import Route

REFRESH_S = 120.0
"""So long after a session came up, what it does not tell is unknown, as in the agent's view: a router that was started
anew must not look like the death of all nodes."""


class Quorum:
    """What is known of the announcers since the agent's last wish."""

    def __init__(self) -> None:
        self._announcers: frozenset[str] = frozenset()
        self._own: frozenset[str] = frozenset()
        self._clusters: frozenset[int] = frozenset()
        self._remaining: frozenset[str] = frozenset()

    def wished(self, wish: DesiredRoutes) -> None:
        """The agent speaks: all that it names are there."""
        self._announcers = self._remaining = frozenset(wish.announcers)
        self._own = frozenset(route.prefix for route in wish.fallback)
        self._clusters = frozenset(c[0] for route in wish.fallback for c in route.large_communities)

    def observe(self, neighbors: Iterable[NeighborRib], now: float) -> None:
        """Take in what the neighbors tell while the agent is silent."""
        alive, silent, certain = set[str](), set[str](), False
        for neighbor in neighbors:
            if not neighbor.up or "ipv4" not in neighbor.agreed:  # it tells no identities
                continue
            certain |= now - neighbor.since >= REFRESH_S
            for prefix in self._announcers & neighbor.routes.keys():
                (alive if self._announces(neighbor.routes[prefix]) else silent).add(prefix)
        unknown = set() if certain else self._remaining - silent
        self._remaining = frozenset(alive | unknown)

    @property
    def holds(self) -> bool:
        """Whether the VIPs stay: too few others remain."""
        return 2 * len(self._remaining - self._own) < len(self._announcers)

    def _announces(self, route: Route) -> bool:
        said = [decode(route.large_communities, cluster) for cluster in self._clusters]
        return any(service.announced for one in said if one for service in one.services.values())
