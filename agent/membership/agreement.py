# SPDX-License-Identifier: Apache-2.0
"""Whether all nodes that answer have this node's view and tables, by their answers' digests, and since when. Pure.

A digest is as old as the last answer: with N nodes, each is asked every N/20 seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.liveness.question import Liveness


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests of a node's view and of its tables."""

    view: int
    tables: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Who differs from this node, and since when that is so (seconds since 1970)."""

    nodes: int = 0
    """How many answer, this node included."""
    differing: Mapping[IPv4Address, str] = field(default_factory=dict)
    """In what each one differs: "view", "tables"."""
    since: float = 0.0

    def after(self, own: Digests, liveness: Mapping[IPv4Address, Liveness], wall: float) -> Agreement:
        """Return the agreement now; `since` stays while the same nodes differ in the same."""
        answering = {address: one for address, one in liveness.items() if one.answers and one.ready}
        differing = {address: what for address, one in answering.items() if (what := _difference(own, one))}
        same = (differing, len(answering) + 1) == (self.differing, self.nodes)
        return self if same else Agreement(len(answering) + 1, differing, wall)


def _difference(own: Digests, other: Liveness) -> str:
    """Return in what a node differs. Different views make different tables, so the view is the news."""
    if other.view_digest != own.view:
        return "view"
    return "tables" if other.tables_digest != own.tables else ""
