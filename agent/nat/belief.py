# SPDX-License-Identifier: Apache-2.0
"""Who checks a backend, and what a node that does not check it believes. Pure.

With a thousand nodes and a thousand backends not every node may ask every backend.

1. Each backend is checked by `CHECKERS` nodes: the first by rendezvous of the backend over the nodes that do NAT and
   whose agents answer. They publish their results.
2. A node that checks a backend believes its own check. All others believe what most of the results are.
3. As soon as one of the results is bad, or there is none, a node checks the backend itself until all are good again:
   the path to it may differ from node to node. It starts from what it believed.

Views need not agree: a session is stored with its backend.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address
from typing import Final

import numpy as np

from agent.health.rise_fall import Health
from agent.table.cost import mix, seed

CHECKERS: Final = 5
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


def assigned(own: IPv4Address, nodes: Collection[IPv4Address], backends: Sequence[int]) -> frozenset[int]:
    """Return those of the backends (by number) that this node is to check. `nodes`: all that check backends, with or
    without this one; if it is not among them it is assigned none."""
    if own not in nodes:
        return frozenset()
    numbers = np.array(backends, np.uint64) * _SPREAD
    mine = mix(numbers ^ np.uint64(seed(own.packed)))
    before = np.zeros(len(backends), np.int64)
    for node in nodes:
        if node != own:
            before += mix(numbers ^ np.uint64(seed(node.packed))) < mine
    return frozenset(number for number, count in zip(backends, before.tolist(), strict=True) if count < CHECKERS)


def must_check(votes: Sequence[bool]) -> bool:
    """Return whether a node that is not assigned a backend must check it, given the results of those that are."""
    return not votes or not all(votes)


def believed(health: Health, votes: Sequence[bool], now: float) -> Health:
    """Return the health of a backend as most of the results of other nodes have it; `health` if they are even."""
    good = sum(votes)
    if 2 * good == len(votes):
        return health
    healthy = 2 * good > len(votes)
    why = (
        f"{'answers' if healthy else 'does not answer'} {good if healthy else len(votes) - good} of {len(votes)} nodes"
    )
    if healthy == health.healthy:
        return health if why == health.why else Health(healthy, 0, health.since, why)
    return Health(healthy, 0, now, why)
