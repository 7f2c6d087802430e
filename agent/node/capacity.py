# SPDX-License-Identifier: Apache-2.0
"""Which nodes fit into the data path's node table, if there are more than it holds. Pure.

Every node must choose the same ones, or their tables would differ: the living members with the lowest addresses. Lost
ones come last, since a node that joined later has never known them. A node that does not fit forwards like any other
and owns nothing; nothing is frozen, and who fits changes as members come and go.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address
from typing import Final

from agent.model import Member
from agent.problem import Problem, ProblemLine
from bpf.layout.limits import NODES

MAX_MEMBERS: Final = NODES - 2
"""One entry is no node, and one is for this node, which its own data path names even if it does not fit."""
NAMED: Final = 8
"""How many of the nodes that do not fit a problem names."""

EXCESS = Problem(
    "{count} members are {excess} more than a node's table holds: {names} own no connections, on no node, and forward "
    "only",
    "split the cluster, or remove nodes",
    "Every node leaves out the same ones, those with the highest addresses, so the tables agree.",
)


def fitting(
    others: tuple[Member, ...], own: IPv4Address, limit: int = MAX_MEMBERS
) -> tuple[tuple[Member, ...], frozenset[IPv4Address]]:
    """Return the other members that fit, in their order, and the addresses of those that do not.

    The latter may contain `own`, this node's address. While all fit, the members are the same object.
    """
    if len(others) < limit:
        return others, frozenset()
    ranked = sorted([(False, int(own)), *((member.lost, int(member.address)) for member in others)])
    excess = frozenset(IPv4Address(number) for _, number in ranked[limit:])
    return tuple(member for member in others if member.address not in excess), excess


def problem(excess: Collection[IPv4Address], limit: int = MAX_MEMBERS) -> list[ProblemLine]:
    """Return a line that names the nodes that do not fit; none if there are none."""
    if not excess:
        return []
    first = ", ".join(map(str, sorted(excess)[:NAMED]))
    more = f" and {len(excess) - NAMED} more" if len(excess) > NAMED else ""
    return [EXCESS.line(count=len(excess) + limit, excess=len(excess), names=first + more)]
