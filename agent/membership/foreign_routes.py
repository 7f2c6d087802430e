# SPDX-License-Identifier: Apache-2.0
"""The routers that send this node other routes than identities and VIPs. Pure.

The relay drops such routes and counts them (bgp/relay/adj_rib_in.py). A few are usual: a default route, the router's
own networks. Many are a leak, which costs ExaBGP memory and CPU.
"""

from __future__ import annotations

from agent.problem import Problem, ProblemLine
from bgp.relay.protocol import Snapshot

MANY = 100

LEAK = Problem(
    "router {router} sends more than {many} routes that are neither identities nor VIPs",
    "have it advertise identities only; `lbctl announce config` prints the filter",
    "This node drops such routes; they cost ExaBGP memory and CPU, and a full table may exhaust the unit's limit.",
)


def problems(snapshot: Snapshot | None) -> list[ProblemLine]:
    """Return a line for each router that sends many. It has no count, which would make a new line of each change."""
    return [
        LEAK.line(router=peer.address, many=MANY)
        for peer in (snapshot.peers if snapshot else ())
        if peer.foreign > MANY
    ]
