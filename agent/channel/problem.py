# SPDX-License-Identifier: Apache-2.0
"""Why peers and this node do not understand each other, for the operator. Pure.

A problem ends `QUIET_S` after its cause was last seen. `now` is CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import ip_address

from agent.problem import Problem, ProblemLine

QUIET_S = 60.0
MIN_DURATION_S = 30.0
"""How long a node may be unknown here before that is a problem: routers propagate at their own pace."""
MAX_KEPT = 256
MAX_LINES = 16


class Cause(enum.Enum):
    """The kind of each problem. `{node}` is the node, `{detail}` what it does."""

    KEY = Problem(
        "{node} signs with another key",
        "give all nodes the same members.key_file",
        "What that node sends is dropped, and it drops what this one sends, so each takes the other for one without an "
        "agent. `sha256sum /etc/anylb/cluster.key` on both shows whether the files differ.",
    )
    CLUSTER = Problem(
        "{node} speaks for {detail}",
        "give both nodes the same cluster, or take it out of members.static",
        "Two clusters have each other's nodes, or one lb.yml has a wrong number. Neither counts the other's nodes.",
    )
    VERSION = Problem(
        "{node} speaks {detail}",
        "install the same release on all nodes",
        "Nodes of two versions of the channel do not read each other's states: each keeps what it knew of the other. "
        "See [releases](releases.md).",
    )
    SOURCE = Problem(
        "datagrams of {node} arrive from {detail}",
        "exempt UDP between nodes from NAT on the path",
        "Something on the path, or a container's network, rewrites the source address; such datagrams are dropped.",
    )
    STATE = Problem(
        "the state of {node} cannot be read ({detail})",
        "install the same release on all nodes",
        "It is signed, but its content is of another release, or damaged. The node counts with its last state.",
    )
    CLAIMS = Problem(
        "the claims of {node} cannot be read ({detail}), so connections that it holds may be reset",
        "install the same release on all nodes",
        "Claims name rows in which a node holds connections; without them a change of members may break these.",
    )
    UNKNOWN = Problem(
        "{node} has this cluster's key and sends to this node, but no router advertises it here",
        "check its BGP sessions and this node's, or add it to members.static",
        "One of the routers does not propagate identities, or a filter drops them (`lbctl announce config` prints the "
        "right one). The node is no member here, so the nodes' tables differ.",
    )


NO_KEY = Problem(
    "this node has no members.key_file, so it accepts no other node",
    "make one with `lbctl key new`, the same file on all nodes",
    "A cluster of one node needs none.",
)
MORE = Problem(
    "{count} more problems between this node and others",
    "mend those above first",
    "The number of lines is bounded; most often they have one cause.",
)


@dataclass(slots=True)
class _Problem:
    detail: str
    first: float
    last: float


class ProblemLog:
    """The problems of the last minute, `MAX_KEPT` at most."""

    def __init__(self) -> None:
        self._problems: dict[tuple[Cause, int], _Problem] = {}
        """By cause and the number of the node's address, the last one seen at the end."""

    def add(self, cause: Cause, node: int, now: float, detail: str = "") -> None:
        """Note that a cause was seen."""
        before = self._problems.pop((cause, node), None)
        ongoing = before is not None and now - before.last < QUIET_S
        self._problems[cause, node] = _Problem(detail, before.first if before and ongoing else now, now)
        if len(self._problems) > MAX_KEPT:
            del self._problems[next(iter(self._problems))]

    def clear(self, node: int, *causes: Cause) -> None:
        """End a node's problems of these causes: what it sends now shows that they are gone."""
        if self._problems:
            for cause in causes:
                self._problems.pop((cause, node), None)

    def lines(self, now: float) -> tuple[ProblemLine, ...]:
        """Return a line for each present problem, sorted, and one for those beyond `MAX_LINES`."""
        lines = sorted(
            cause.value.line(node=ip_address(node), detail=problem.detail)
            for (cause, node), problem in self._problems.items()
            if now - problem.last < QUIET_S
            and (cause is not Cause.UNKNOWN or problem.last - problem.first >= MIN_DURATION_S)
        )
        more = len(lines) - MAX_LINES
        return (*lines[:MAX_LINES], MORE.line(count=more)) if more > 0 else tuple(lines)
