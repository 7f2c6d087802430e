# SPDX-License-Identifier: Apache-2.0
"""The difference between the routes advertised to each neighbor and the desired ones, as commands for ExaBGP. Pure.

Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bgp.route import Route

AdjRibsOut = Mapping[str, Mapping[str, Route]]
"""Routes by neighbor, then by prefix."""


@dataclass(frozen=True, slots=True)
class RouteChange:
    """One command to ExaBGP: advertise `route` to a neighbor, or withdraw its prefix."""

    neighbor: str
    route: Route
    advertise: bool

    @property
    def command(self) -> str:
        """The text of the command."""
        route = self.route
        return route.announce_command(self.neighbor) if self.advertise else route.withdraw_command(self.neighbor)

    @property
    def key(self) -> tuple[str, str]:
        """The neighbor and the prefix that it changes."""
        return self.neighbor, self.route.prefix


def diff(actual: AdjRibsOut, desired: AdjRibsOut) -> list[RouteChange]:
    """Return the changes after which each neighbor in `desired` has exactly the routes listed there.

    Advertisements come before withdrawals, so that a prefix that replaces another is there before that one goes.
    """
    advertised, withdrawn = [], []
    for neighbor, routes in sorted(desired.items()):
        before = actual.get(neighbor, {})
        advertised += [
            RouteChange(neighbor, route, True)
            for prefix, route in sorted(routes.items())
            if before.get(prefix) != route
        ]
        withdrawn += [RouteChange(neighbor, before[prefix], False) for prefix in sorted(before.keys() - routes.keys())]
    return advertised + withdrawn
