# SPDX-License-Identifier: Apache-2.0
"""The quorum of announcers, without which neither the dead-man nor an agent that stops withdraws a VIP.

An agent that is silent or stops alone is one node less, and its VIPs are withdrawn. When most agents are gone (a
release that crashes, a configuration that none can read, a restart of all at once), withdrawals by every relay would
end the whole service, although the data paths still run in the kernels and could serve. So the VIPs stay announced
while fewer than half of the announcers remain that the agent listed last. A node that announces alone keeps its VIPs
too: no other could take over.

A node remains if its identity is learned and says that it announces a VIP. The fallback of a silent agent does not say
so, whether its VIPs stay or not. So the decision of one relay does not change what the others observe, and no two
relays can alternate. In a cluster whose agents fall silent one after the other, the first half withdraws, and announces
again when the rest is silent too.

Pure, as is deadman.py, which owns the instance. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgp.community import decode
from bgp.relay.adj_rib_in import NeighborRib
from bgp.relay.protocol import DesiredRoutes
from bgp.route import Route

REFRESH_S = 120.0
"""For this long after a session came up, a missing route proves nothing, as in the agent's view: a router that
restarted must not look like the death of all nodes."""


class Quorum:
    """The announcers that the agent listed last, and which of them remain."""

    def __init__(self) -> None:
        self._announcers: frozenset[str] = frozenset()
        self._own: frozenset[str] = frozenset()
        self._clusters: frozenset[int] = frozenset()
        self._remaining: frozenset[str] = frozenset()

    def reset(self, desired: DesiredRoutes) -> None:
        """Start again from the agent's list: all announcers remain."""
        self._announcers = self._remaining = frozenset(desired.announcers)
        self._own = frozenset(route.prefix for route in desired.fallback)
        self._clusters = frozenset(c[0] for route in desired.fallback for c in route.large_communities)

    def observe(self, neighbors: Iterable[NeighborRib], now: float) -> None:
        """Update the remaining announcers from the learned identities, while the agent is silent."""
        alive, silent, certain = set[str](), set[str](), False
        for neighbor in neighbors:
            if not neighbor.up or "ipv4" not in neighbor.negotiated:  # it sends no identities
                continue
            certain |= now - neighbor.since >= REFRESH_S
            for prefix in self._announcers & neighbor.rib.by_prefix.keys():
                (alive if self._announces(neighbor.rib.by_prefix[prefix]) else silent).add(prefix)
        unknown = set() if certain else self._remaining - silent
        self._remaining = frozenset(alive | unknown)

    @property
    def lost(self) -> bool:
        """Whether too few other announcers remain, so that the VIPs stay."""
        return 2 * len(self._remaining - self._own) < len(self._announcers)

    def _announces(self, route: Route) -> bool:
        identities = [decode(route.large_communities, cluster) for cluster in self._clusters]
        return any(one.announces for one in identities if one)
