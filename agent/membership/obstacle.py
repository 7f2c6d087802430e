# SPDX-License-Identifier: Apache-2.0
"""Why a node that is named is no member, and members that no router names: what an operator must know. Pure.

BGP, the echo and the channel speak of the same nodes; where one of them is missing for long, something between filters,
strips or is set up differently.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address

from agent.channel.state import NodeState
from agent.liveness.path_rounds import ATTEMPTS
from agent.liveness.question import PathStats, Via
from agent.membership.observations import Observations
from agent.membership.received import OtherCluster
from agent.membership.start import ALONE_S

MAX_LINES = 16

Obstacle = tuple[str, str, str]
"""The kind, what it concerns, and the problem as one line."""

_WIRE = {Via.GUE: "UDP 6080", Via.IPIP: "IP protocol 4", Via.MARKER: "frames whose source MAC is a marker"}


def bounded(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the first of many lines of one kind, and one for the others: a wrong key is a problem with each node."""
    more = len(lines) - MAX_LINES
    return (*lines[:MAX_LINES], f"{more} more like this: {lines[MAX_LINES]}") if more > 0 else tuple(lines)


def obstacles(
    observed: Observations, own: IPv4Address, members: Collection[IPv4Address], port: int
) -> tuple[Obstacle, ...]:
    """Return what keeps nodes from being members, or that only one source names. `own`: this node's address;
    `port`: of echo and channel."""
    return (*_named(observed, members, port), *_one_way(observed, own, port), *_unnamed(observed, members))


def blocked(
    observed: Observations, vias: Collection[Via], stats: Callable[[IPv4Address], Mapping[Via, PathStats]]
) -> Iterator[Obstacle]:
    """Yield the nodes that answer, but not by an encapsulation that packets use. `stats`: the counts of a node."""
    for address, liveness in observed.liveness.items():
        counts = stats(address) if liveness.answers else {}
        for via in vias:
            if via in counts and counts[via].in_a_row >= ATTEMPTS:
                text = f"{address} answers, but not by {via}, so what is forwarded to it is lost: see whether anything "
                yield "way", f"{address} {via}", text + f"on the way drops {_WIRE[via]}"


def other_clusters(found: Iterable[OtherCluster], cluster: int) -> Iterator[Obstacle]:
    """Yield the nodes that announce a VIP of this cluster's, whose number is `cluster`, for another one."""
    for address, other, vip in found:
        text = f"{address} announces {vip} for cluster {other}, this node for cluster {cluster}: "
        text += "give both nodes the same cluster, or each cluster VIPs of its own"
        yield "cluster", f"{address} {other}", text


def other_claims(states: Mapping[IPv4Address, NodeState], own: bool) -> Iterator[Obstacle]:
    """Yield the nodes that put claims into their rows where this one does not, or the reverse. `own`: what it does."""
    for address, state in states.items():
        if state.reads_claims != own:
            text = "has no claims in its rows, this node has" if own else "has claims in its rows, this node has none"
            text += ", so they differ: set table.claims alike on all nodes, and install the same release"
            yield "claims", str(address), f"{address} {text}"


def cut_off(port: int, is_asked: bool) -> str:
    """Return the problem of a node that no other answers. `is_asked`: the others' questions arrive here."""
    effect = "it keeps its tables, and takes no new connections; see "
    if is_asked:
        text = f"other nodes ask this one on UDP {port}, but none answers it: {effect}"
        return text + "whether a packet filter here drops that port, and whether what this node sends arrives"
    text = f"no other node answers this one on UDP {port}: {effect}"
    return text + "its link, and whether a packet filter here or on the way drops that port"


def cut_off_at_start(port: int) -> str:
    """Return the problem of a node that waits alone (start.py)."""
    return (
        f"routers send packets to other nodes, but none of these answers this one on UDP {port}: alone it would reset "
        f"their connections, so it waits until one answers or the routers withdraw them, {ALONE_S / 60:.0f} minutes at "
        "most; see its link, and whether a packet filter here or on the way drops that port"
    )


def _named(observed: Observations, members: Collection[IPv4Address], port: int) -> Iterator[Obstacle]:
    for address in sorted(observed.named, key=int):
        liveness, state = observed.liveness.get(address), observed.states.get(address)
        if liveness is None or liveness.answers is None:
            continue
        if not liveness.answers:
            text = f"{address} is named, but its data path does not answer on UDP {port}: see whether it runs, with "
            text += (
                "the same cluster and members.port, and whether a packet filter, here or on the way, drops that port"
            )
            yield "silent", str(address), text
        elif address in members and not liveness.ready:
            text = (
                f"{address} answers, but reports that it is not ready, so it takes no new connections: see the lines "
            )
            yield "not ready", str(address), text + "that `lbctl status` shows there"
        elif address not in members and (state is None or state.boot != liveness.boot):
            text = f"{address} answers, but its agent does not publish what it serves: see whether it runs, with the "
            yield "no state", str(address), text + f"same members.key_file, and whether UDP {port} reaches it from here"


def _one_way(observed: Observations, own: IPv4Address, port: int) -> Iterator[Obstacle]:
    """The nodes that answer this one, but do not reach it."""
    for address, state in observed.states.items():
        liveness = observed.liveness.get(address)
        if own in state.unreachable and liveness is not None and liveness.answers:
            text = f"{address} answers this node, but reports that this one does not answer: see whether its packet "
            yield "one way", str(address), text + f"filter, or anything on the way back, drops UDP {port}"


def _unnamed(observed: Observations, members: Collection[IPv4Address]) -> Iterator[Obstacle]:
    for address in sorted(set(members) - observed.named.keys(), key=int):
        liveness = observed.liveness.get(address)
        if liveness is not None and liveness.answers:
            text = f"{address} answers, but no router passes its identity on: see its BGP session, and whether the "
            yield "unnamed", str(address), text + "routers export identities with their large communities to this node"
