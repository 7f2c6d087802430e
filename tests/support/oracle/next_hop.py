# SPDX-License-Identifier: Apache-2.0
"""The next-hop rule a second time, for the proofs: what a node does with a packet, and its next node.

Owns the rule only. It is written from docs/architecture and from the comment at the top of bpf/src/pick.h, not from
code: it works with sets and lists of nodes, where the program counts places.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

K = 9
"""One more than a row has places: a packet that was forwarded more often went in a circle."""

GRACED = 0x10
"""Added to the hop that a packet carries, if a row on its path has just changed."""

COLLECT_HOP, COLLECT_HOP_MAX = K + 2, K + 6
"""Hops of fragments that are on their way to be collected, or wait for the first one of their packet."""

CONNECTION, TIME_WAIT, COOKIE = "connection", "time-wait", "cookie"


@dataclass(frozen=True)
class Packet:
    """`opens`: a SYN, or any datagram. `hop` is the number of its forwards so far, the last by `prev`.

    `graced`: it takes along that a row on its path has just changed.
    """

    opens: bool
    hop: int = 0
    prev: int | None = None
    udp: bool = False
    graced: bool = False


@dataclass(frozen=True)
class Belief:
    """What a node believes when a packet comes: `chain` of the packet's row, a local `socket`, its own state.

    `silent` nodes do not answer; those of them that are `awaited` may come back with their connections. `narrow` nodes
    have tunnels too narrow for this packet; `any_narrow`: this node may have taken an IPv6 flow because of such.
    """

    me: int
    chain: Sequence[int]
    socket: str | None = None
    up: bool = True
    grace: bool = False
    unreachable: Collection[int] = ()
    silent: Collection[int] = ()
    awaited: Collection[int] = ()
    narrow: Collection[int] = ()
    any_narrow: bool = False


@dataclass(frozen=True)
class Decision:
    """`event` is the counter's name; `skipped`, `silent` and `narrow` count the nodes passed over, by reason."""

    event: str
    to: int | None = None
    skipped: int = 0
    silent: int = 0
    narrow: int = 0
    graced: bool = False


def join_rows(first: Sequence[int], other: Sequence[int], alternating: bool) -> list[int]:
    """Return the chain of a node that uses the rows of two epochs: four places of the first, three of the other, and
    what comes after the fourth of both in turn; eight in all.

    Alternating, place i of the first row is tried before place i of the other, and that before place i + 1.
    """
    if not first:
        return []
    tried = [(place if alternating else 0, 0, place, node) for place, node in enumerate(first[:4])]
    tried += [(place if alternating else 1, 1, place, node) for place, node in enumerate(other[:3])]
    chain: list[int] = []
    for *_, node in sorted(tried):
        if node not in chain:
            chain.append(node)
    claimed = sorted((place, row, node) for row, all_ in ((0, first), (1, other)) for place, node in enumerate(all_))
    for place, _, node in claimed:
        if place >= 4 and node not in chain:
            chain.append(node)
    return chain[:8]


def decide(here: Belief, packet: Packet) -> Decision:
    """Apply the steps of the rule in their order."""
    owner = list(here.chain[:1]) == [here.me]
    others = [node for node in here.chain if node != here.me]
    live = [node for node in here.chain if node == here.me or node not in here.silent]
    first = bool(here.chain) and live[:1] in ([here.me], [])

    takes_new = owner or packet.hop > 1 or (here.up and (first or packet.hop == 1))
    if packet.opens and takes_new:
        return Decision("deliver_udp" if packet.udp else "deliver_owner" if first else "deliver_forwarded_syn")

    graced = here.grace or packet.graced
    if not others and (packet.opens or not graced):
        return Decision("deliver_only_node" if owner else "pass_no_member")

    may_be_here = here.me in here.chain or packet.hop > 0 or not others or first or here.any_narrow
    if may_be_here and (event := _socket(here, first, packet)):
        return Decision(event)

    if packet.hop > K:
        return Decision("drop_hop_limit")

    candidates = [node for node in _candidates(here, packet) if not (packet.hop and node == packet.prev)]
    reachable = [node for node in candidates if node not in here.silent and node not in here.unreachable]
    usable = [node for node in reachable if node not in here.narrow]
    passed = candidates[: candidates.index(usable[0])] if usable else candidates
    silent = sum(node in here.silent for node in passed)
    narrow = sum(node in reachable for node in passed)
    if usable:
        event = "forward_again" if packet.hop else "forward_first"
    elif narrow:
        event = "deliver_narrow" if packet.opens else "drop_too_big"
    elif set(here.chain) & set(here.awaited):
        event = "deliver_chain_end" if packet.opens else "drop_silent"
    else:
        event = "drop_grace" if graced else "deliver_chain_end"
    takes_along = packet.graced or (graced and packet.hop > 0 and not packet.opens)
    return Decision(event, usable[0] if usable else None, len(passed) - silent - narrow, silent, narrow, takes_along)


def _socket(here: Belief, first: bool, packet: Packet) -> str | None:
    """Return the event that the local socket causes, if any. `first`: all nodes before this one are silent."""
    if here.socket == CONNECTION:
        return "deliver_socket"
    if packet.opens:
        return None
    if here.socket == TIME_WAIT and (first or packet.hop):
        return "deliver_time_wait"
    if here.socket == COOKIE and (first or here.me in here.chain):
        return "deliver_syn_cookie"
    return None


def _candidates(here: Belief, packet: Packet) -> list[int]:
    """Return the nodes that may still be tried, in their order."""
    if here.me not in here.chain:
        return list(here.chain)
    place = list(here.chain).index(here.me)
    tried, later = here.chain[:place], here.chain[place + 1 :]
    live = [node for node in tried if node not in here.silent]
    came_as_explained = live and packet.hop > len(live) and packet.prev in tried
    return list(later if came_as_explained else [*tried, *later])
