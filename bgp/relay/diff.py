# SPDX-License-Identifier: Apache-2.0
"""From what each neighbor hears and what it should hear to the commands that lie between. Pure.

Standard library only: the relay carries this file (helper_archive.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bgp.route import Route

Announced = Mapping[str, Mapping[str, Route]]
"""By neighbor, then by prefix."""


@dataclass(frozen=True, slots=True)
class RouteChange:
    """One command to ExaBGP: announce `route` to a neighbor, or withdraw its prefix from it."""

    neighbor: str
    route: Route
    announce: bool

    @property
    def command(self) -> str:
        """Its text."""
        route = self.route
        return route.announce_command(self.neighbor) if self.announce else route.withdraw_command(self.neighbor)

    @property
    def place(self) -> tuple[str, str]:
        """What it changes: a prefix at a neighbor."""
        return self.neighbor, self.route.prefix


def diff(announced: Announced, wanted: Announced) -> list[RouteChange]:
    """Return the changes that make each neighbor in `wanted` hear exactly the routes there.

    New routes come before withdrawals, so that a prefix which takes another's place is there before that one goes.
    """
    new, gone = [], []
    for neighbor, routes in sorted(wanted.items()):
        heard = announced.get(neighbor, {})
        new += [
            RouteChange(neighbor, route, True) for prefix, route in sorted(routes.items()) if heard.get(prefix) != route
        ]
        gone += [RouteChange(neighbor, heard[prefix], False) for prefix in sorted(heard.keys() - routes.keys())]
    return new + gone
