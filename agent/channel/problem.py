# SPDX-License-Identifier: Apache-2.0
"""Why peers and this node do not understand each other: lines for the operator, with the next step. Pure.

A problem ends `QUIET_S` after its cause was last seen. `now` is CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import ip_address

QUIET_S = 60.0
MIN_DURATION_S = 30.0
"""How long a node may be unknown here before that is a problem: routers propagate at their own pace."""
MAX_KEPT = 256
MAX_LINES = 16


class Cause(enum.Enum):
    """The text of each problem. `{node}` is the node, `{detail}` what it does."""

    KEY = "{node} signs with another key: give all nodes the same members.key_file"
    CLUSTER = "{node} speaks for {detail}: give both nodes the same cluster, or take it out of members.static"
    VERSION = "{node} speaks {detail}: install the same release on all nodes"
    SOURCE = "datagrams of {node} arrive from {detail}: exempt UDP between nodes from NAT on the path"
    STATE = "the state of {node} cannot be read ({detail}): install the same release on all nodes"
    CLAIMS = (
        "the claims of {node} cannot be read ({detail}), so connections that it holds may be reset: install the same "
        "release on all nodes"
    )
    UNKNOWN = (
        "{node} has this cluster's key and sends to this node, but no router advertises it here: check its BGP "
        "sessions and this node's, or add it to members.static"
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

    def lines(self, now: float) -> tuple[str, ...]:
        """Return a line for each present problem, sorted, and one for those beyond `MAX_LINES`."""
        lines = sorted(
            cause.value.format(node=ip_address(node), detail=problem.detail)
            for (cause, node), problem in self._problems.items()
            if now - problem.last < QUIET_S
            and (cause is not Cause.UNKNOWN or problem.last - problem.first >= MIN_DURATION_S)
        )
        more = len(lines) - MAX_LINES
        return (*lines[:MAX_LINES], f"{more} more problems between this node and others") if more > 0 else tuple(lines)
