# SPDX-License-Identifier: Apache-2.0
"""The export policy: which of the agent's routes each neighbor gets, and with which attributes.

Pure, as is reconciler.py, which owns the instance. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bgp.relay.adj_rib_in import AdjRibIn, NeighborRib
from bgp.relay.allowlist import Exactly, Network, refused
from bgp.relay.protocol import DesiredRoutes
from bgp.route import Route


class ExportPolicy:
    """The routes to advertise, by neighbor and prefix; no neighbor at all means: change nothing.

    `refused`: the prefixes that the agent desires and the allowlist does not contain.
    """

    def __init__(self) -> None:
        self.routes: Mapping[str, Mapping[str, Route]] = {}
        self.refused: list[str] = []
        self._depends_on: object = None

    def update(
        self,
        desired: DesiredRoutes | None,
        fallback: bool,
        keep_vips: bool,
        allowed: tuple[Network | Exactly, ...],
        adj_rib_in: AdjRibIn,
    ) -> bool:
        """Determine the routes again if what they depend on has changed; return whether it has. Cheap if not.

        `fallback`: announce the agent's fallback; `keep_vips`: next to its VIPs.
        """
        depends_on = desired, fallback, keep_vips, allowed, adj_rib_in.descriptions
        if depends_on == self._depends_on:
            return False
        self._depends_on, self.routes = depends_on, {}
        routes = _select(desired, fallback, keep_vips)
        if routes is not None:
            self.refused = refused((route.prefix for route in routes), allowed)
            accepted = [route for route in routes if route.prefix not in self.refused]
            self.routes = {n.address: _export(accepted, n) for n in adj_rib_in.neighbors if n.described}
        return True


def _select(desired: DesiredRoutes | None, fallback: bool, keep_vips: bool) -> tuple[Route, ...] | None:
    """Return the routes to advertise; None as long as there has been no agent, and the dead-man has not acted.

    The fallback replaces the routes of a silent agent. If its VIPs are kept, what the fallback does not replace stays.
    """
    if desired is None:
        return () if fallback else None
    if not fallback:
        return desired.desired
    replaced = {route.prefix for route in desired.fallback}
    kept = (route for route in desired.desired if keep_vips and route.prefix not in replaced)
    return (*desired.fallback, *kept)


def _export(routes: Iterable[Route], neighbor: NeighborRib) -> dict[str, Route]:
    """Return those of `routes` that are of the neighbor's families, with the attributes for this neighbor."""
    return {
        route.prefix: route.for_neighbor(neighbor.local_as, neighbor.peer_as, neighbor.local_address)
        for route in routes
        if ("ipv6" if route.ipv6 else "ipv4") in neighbor.families
    }
