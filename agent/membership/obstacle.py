# SPDX-License-Identifier: Apache-2.0
"""Why a node that is named is no member, and members that no router names: what an operator must know. Pure.

BGP, the echo and the channel concern the same nodes; where one of them is missing for long, something between filters,
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
from agent.problem import Problem, ProblemLine

MAX_LINES = 16

Obstacle = tuple[str, str, ProblemLine]
"""The kind, what it concerns, and the problem as one line."""

_WIRE = {Via.GUE: "UDP 6080", Via.IPIP: "IP protocol 4", Via.MARKER: "frames whose source MAC is a marker"}


MORE = Problem("{count} more like this: {line}", "", "The number of lines of one kind is bounded; the last is shown.")
SILENT = Problem(
    "{node} is named, but its data path does not answer on UDP {port}",
    "see whether it runs, with the same cluster and members.port, and whether a packet filter, here or on the path, "
    "drops that port",
    "A router, lb.yml or an earlier run names the node, and its XDP program does not answer this one. It takes no new "
    "connections meanwhile; with other nodes that it answers, it is a fault of the path between the two.",
)
NOT_READY = Problem(
    "{node} answers, but reports that it is not ready, so it takes no new connections",
    "see the lines that `lbctl status` shows there",
    "Its tables are not written, or it does not know all members yet. A node that has just started needs seconds.",
)
NO_STATE = Problem(
    "{node} answers, but its agent does not publish what it serves",
    "see whether it runs, with the same members.key_file, and whether UDP {port} reaches it from here",
    "Its data path lives without its agent: it goes on forwarding, and joins no service until the agent is back.",
)
ONE_WAY = Problem(
    "{node} answers this node, but reports that this one does not answer",
    "see whether its packet filter, or anything on the path back, drops UDP {port}",
    "The path between the two nodes is open in one direction only.",
)
UNNAMED = Problem(
    "{node} answers, but no router passes its identity on",
    "see its BGP session, and whether the routers export identities with their large communities to this node",
    "It stays a member because it answers; a node that starts now would not find it.",
)
BLOCKED = Problem(
    "{node} answers, but not by {encapsulation}, so what is forwarded to it is lost",
    "see whether anything on the path drops {wire}",
    "Plain UDP reaches the node, and the encapsulation that packets use does not: clients whose packets arrive at this "
    "node and belong to that one time out.",
)
OTHER_CLUSTER = Problem(
    "{node} announces {vip} for cluster {other}, this node for cluster {cluster}",
    "give both nodes the same cluster, or each cluster VIPs of its own",
    "The router shards flows over both clusters, and neither forwards to the other: connections break.",
)
OTHER_CLAIMS = Problem(
    "{node} {has}, so they differ",
    "set table.claims alike on all nodes, and install the same release",
    "One node puts claims into its rows and the other does not. Rows with a claim have other owners on each.",
)
CUT_OFF = Problem(
    "no other node answers this one on UDP {port}: it keeps its tables, and takes no new connections",
    "see its link, and whether a packet filter here or on the path drops that port",
    "This node is alone, or all others are away: it cannot know. See "
    "[a split cluster](troubleshooting.md#a-split-cluster).",
)
CUT_OFF_INWARDS = Problem(
    "other nodes ask this one on UDP {port}, but none answers it: it keeps its tables, and takes no new connections",
    "see whether a packet filter here drops that port, and whether what this node sends arrives",
    "What the others send arrives, so the fault is in what this node sends, or in a filter for answers.",
)
WAITS_ALONE = Problem(
    "routers send packets to other nodes, but none of these answers this one on UDP {port}: alone it would reset their "
    "connections, so it waits until one answers or the routers withdraw them, {minutes:.0f} minutes at most",
    "see its link, and whether a packet filter here or on the path drops that port",
    "The node has started and is not announced yet.",
)


def bounded(lines: Sequence[ProblemLine]) -> tuple[ProblemLine, ...]:
    """Return the first of many lines of one kind, and one for the others: a wrong key is a problem with each node."""
    more = len(lines) - MAX_LINES
    return (*lines[:MAX_LINES], MORE.line(count=more, line=lines[MAX_LINES])) if more > 0 else tuple(lines)


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
                line = BLOCKED.line(node=address, encapsulation=via, wire=_WIRE[via])
                yield "encapsulation", f"{address} {via}", line


def other_clusters(found: Iterable[OtherCluster], cluster: int) -> Iterator[Obstacle]:
    """Yield the nodes that announce a VIP of this cluster's, whose number is `cluster`, for another one."""
    for address, other, vip in found:
        line = OTHER_CLUSTER.line(node=address, vip=vip, other=other, cluster=cluster)
        yield "cluster", f"{address} {other}", line


def other_claims(states: Mapping[IPv4Address, NodeState], own: bool) -> Iterator[Obstacle]:
    """Yield the nodes that put claims into their rows where this one does not, or the reverse. `own`: what it does."""
    for address, state in states.items():
        if state.reads_claims != own:
            has = "has no claims in its rows, this node has" if own else "has claims in its rows, this node has none"
            yield "claims", str(address), OTHER_CLAIMS.line(node=address, has=has)


def cut_off(port: int, is_asked: bool) -> ProblemLine:
    """Return the problem of a node that no other answers. `is_asked`: the others' questions arrive here."""
    return CUT_OFF_INWARDS.line(port=port) if is_asked else CUT_OFF.line(port=port)


def cut_off_at_start(port: int) -> ProblemLine:
    """Return the problem of a node that waits alone (start.py)."""
    return WAITS_ALONE.line(port=port, minutes=ALONE_S / 60)


def _named(observed: Observations, members: Collection[IPv4Address], port: int) -> Iterator[Obstacle]:
    for address in sorted(observed.named, key=int):
        liveness, state = observed.liveness.get(address), observed.states.get(address)
        if liveness is None or liveness.answers is None:
            continue
        if not liveness.answers:
            yield "silent", str(address), SILENT.line(node=address, port=port)
        elif address in members and not liveness.ready:
            yield "not ready", str(address), NOT_READY.line(node=address)
        elif address not in members and (state is None or state.boot != liveness.boot):
            yield "no state", str(address), NO_STATE.line(node=address, port=port)


def _one_way(observed: Observations, own: IPv4Address, port: int) -> Iterator[Obstacle]:
    """The nodes that answer this one, and that this one does not reach."""
    for address, state in observed.states.items():
        liveness = observed.liveness.get(address)
        if own in state.unreachable and liveness is not None and liveness.answers:
            yield "one way", str(address), ONE_WAY.line(node=address, port=port)


def _unnamed(observed: Observations, members: Collection[IPv4Address]) -> Iterator[Obstacle]:
    for address in sorted(set(members) - observed.named.keys(), key=int):
        liveness = observed.liveness.get(address)
        if liveness is not None and liveness.answers:
            yield "unnamed", str(address), UNNAMED.line(node=address)
