# SPDX-License-Identifier: Apache-2.0
"""Why a node that is named is no member, and members that no router names: what an operator must know. Pure.

BGP, the echo and the channel speak of the same nodes; where one of them is missing for long, something between filters,
strips or is set up differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address

from agent.membership.view import Heard

MAX_LINES = 16

Obstacle = tuple[str, str, str]
"""The kind, what it concerns, and the problem as one line."""


def obstacles(heard: Heard, members: Collection[IPv4Address], port: int) -> tuple[Obstacle, ...]:
    """Return what keeps nodes from being members, or names them by one voice alone. `port`: of echo and channel."""
    return (*_candidates(heard, members, port), *_unnamed(heard, members))


def bounded(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the first of many lines of one kind, and one for the others: a wrong key is a problem with each node."""
    more = len(lines) - MAX_LINES
    return (*lines[:MAX_LINES], f"{more} more like this: {lines[MAX_LINES]}") if more > 0 else tuple(lines)


def _candidates(heard: Heard, members: Collection[IPv4Address], port: int) -> Iterator[Obstacle]:
    for address in sorted(heard.named.keys() - set(members), key=int):
        liveness, state = heard.liveness.get(address), heard.states.get(address)
        if liveness is None or liveness.answers is None:
            continue
        if not liveness.answers:
            text = f"{address} is named, but its data path does not answer on UDP {port}: see whether it runs, and "
            yield "silent", str(address), text + "whether anything on the way filters that port"
        elif state is None or state.boot != liveness.boot:
            text = f"{address} answers, but its agent does not say what it serves: see whether it runs, with the same "
            yield "no word", str(address), text + f"members.key_file, and whether UDP {port} reaches it from here"


def _unnamed(heard: Heard, members: Collection[IPv4Address]) -> Iterator[Obstacle]:
    for address in sorted(set(members) - heard.named.keys(), key=int):
        liveness = heard.liveness.get(address)
        if liveness is not None and liveness.answers:
            text = f"{address} answers, but no router passes its identity on: see its BGP session, and whether the "
            yield "unnamed", str(address), text + "routers export identities with their large communities to this node"
