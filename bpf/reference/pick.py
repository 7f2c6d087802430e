# SPDX-License-Identifier: Apache-2.0
"""What the program does with a packet of a service: pick.h's rule in pure Python, for `lbctl explain` and the tests.

pick.h states the rule and its reasons. Nodes are any hashable names here; the program knows them by index (in chains)
and by tag (the node that forwarded a packet).
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from bpf.layout.counter import Counter
from bpf.layout.join_order import join_order, last_places
from bpf.layout.limits import CHAIN, HOP_MAX

Node = TypeVar("Node", bound=Hashable)


class Socket(Enum):
    """What the local kernel has for the packet's flow."""

    NONE = "no socket"
    CONNECTION = "an established or SYN-RECV socket (UDP: a connected one)"
    TIME_WAIT = "a TIME-WAIT socket"
    COOKIE = "a listener whose SYN cookie it answers"


@dataclass(frozen=True)
class Arrival(Generic[Node]):
    """A packet at a node.

    `opens`: it needs no socket: a SYN, any UDP. `hop`: the number of forwards so far, the last by `prev`. `in_grace`: a
    row that led it here is in grace.
    """

    opens: bool
    hop: int = 0
    prev: Node | None = None
    udp: bool = False
    in_grace: bool = False


@dataclass(frozen=True)
class NodeState(Generic[Node]):
    """What a node knows when the packet comes.

    `up`: it takes new connections of the service. `grace`: the row has just changed. `reachable`: nodes whose MAC is or
    was known, None for all. `silent` nodes do not answer; `awaited`: those of them whose connections may come back.
    `within_limit`: the CPU may still forward a packet more than `unmetered` times. `narrow`: nodes whose tunnel is too
    narrow for this IPv6 packet; `any_narrow`: a tunnel of this node is for some IPv6 packets, so that it may have taken
    the flow.
    """

    me: Node
    chain: Sequence[Node]
    socket: Socket = Socket.NONE
    up: bool = True
    grace: bool = False
    reachable: Collection[Node] | None = None
    silent: Collection[Node] = ()
    awaited: Collection[Node] = ()
    within_limit: bool = True
    unmetered: int = 1
    narrow: Collection[Node] = ()
    any_narrow: bool = False


@dataclass(frozen=True)
class Decision(Generic[Node]):
    """`event` is what happens; a packet that is forwarded goes to the node `to` with `hop`, `in_grace` or not."""

    event: Counter
    to: Node | None = None
    hop: int = 0
    in_grace: bool = False

    @property
    def why(self) -> str:
        """The reason in a few words."""
        return WHY[self.event]


WHY: Final = {
    Counter.PASS_NO_MEMBER: "the row is empty: no member",
    Counter.DELIVER_OWNER: "a new connection, and this node owns the row or those before it are silent",
    Counter.DELIVER_FORWARDED_SYN: "a new connection that was forwarded to this node",
    Counter.DELIVER_UDP: "a datagram, and this node owns the row or it was forwarded here",
    Counter.DELIVER_SOCKET: "its connection is here",
    Counter.DELIVER_TIME_WAIT: "a TIME-WAIT socket of it is here",
    Counter.DELIVER_SYN_COOKIE: "it answers a SYN cookie of this node",
    Counter.DELIVER_ONLY_NODE: "this node is the row's only member",
    Counter.DELIVER_CHAIN_END: "no node is left to try: the kernel answers (RST)",
    Counter.DELIVER_NARROW: "a new IPv6 flow, and the tunnels to the nodes that are left are too narrow",
    Counter.DROP_TOO_BIG: "too large for the tunnels to the nodes that are left, and IPv6 has no smaller path MTU",
    Counter.FORWARD_FIRST: "the next node of the chain is tried",
    Counter.FORWARD_AGAIN: "not here: the next node of the chain is tried",
    Counter.DROP_GRACE: "no node is left to try, but the row has just changed: TCP sends again",
    Counter.DROP_SILENT: "no node is left to try, but a silent one may have it: TCP sends again",
    Counter.DROP_HOP_LIMIT: "forwarded too often: tables disagree",
    Counter.DROP_RATE_LIMIT: "this CPU has used up its rate of second forwards",
}


def join_rows(first: Sequence[Node], other: Sequence[Node] | None, alternating: bool = False) -> tuple[Node, ...]:
    """Return the chain of a node that uses the rows of two epochs; `first` is that of new flows.

    Alternating, the owners of both epochs come first: right where all nodes use both rows. Otherwise the other's places
    come last, so that the places before have the same numbers as at nodes that know only the first row. What is in
    places beyond comes after both, as far as there is room: nodes that claim the row.
    """
    if other is None or not first:
        return tuple(first)
    order = join_order(alternating) + last_places()
    two = dict(enumerate(first)) | {CHAIN + place: node for place, node in enumerate(other)}
    return tuple(dict.fromkeys(two[place] for place in order if place in two))[:CHAIN]


def pick(here: NodeState[Node], packet: Arrival[Node]) -> Decision[Node]:
    """Decide as the program does."""
    chain, hop = here.chain, packet.hop
    place = chain.index(here.me) if here.me in chain else None
    live_place = _place_among_live(here, place)
    alone = not chain or (place == 0 and len(chain) == 1)
    in_grace = here.grace or packet.in_grace
    if packet.opens and (place == 0 or hop >= 2 or (here.up and (live_place == 0 or hop == 1))):
        if packet.udp:
            return Decision(Counter.DELIVER_UDP)
        return Decision(Counter.DELIVER_OWNER if live_place == 0 else Counter.DELIVER_FORWARDED_SYN)
    if alone and (packet.opens or not in_grace):
        return Decision(Counter.DELIVER_ONLY_NODE if chain else Counter.PASS_NO_MEMBER)
    if alone or live_place is not None or hop or here.any_narrow:
        found = _deliver_to_socket(here.socket, live_place, packet)
        if found is not None:
            return Decision(found)
    if hop >= HOP_MAX:
        return Decision(Counter.DROP_HOP_LIMIT)
    candidates = _candidates(here, place, live_place, packet)
    to = next((node for node in candidates if node not in here.narrow), None)
    if to is None and candidates:
        return Decision(Counter.DELIVER_NARROW if packet.opens else Counter.DROP_TOO_BIG)
    if to is None:
        if any(node in here.awaited for node in chain):
            return Decision(Counter.DELIVER_CHAIN_END if packet.opens else Counter.DROP_SILENT)
        return Decision(Counter.DROP_GRACE if in_grace else Counter.DELIVER_CHAIN_END)
    if hop == 0:
        return Decision(Counter.FORWARD_FIRST, to, 1, packet.in_grace)
    if hop < here.unmetered or here.within_limit:
        return Decision(Counter.FORWARD_AGAIN, to, hop + 1, packet.in_grace if packet.opens else in_grace)
    return Decision(Counter.DROP_RATE_LIMIT)


def _place_among_live(here: NodeState[Node], place: int | None) -> int | None:
    """Return this node's place in the chain without the silent nodes: 0 if all are silent, None if it has none."""
    live = sum(node not in here.silent for node in here.chain[:place])
    return None if place is None and (live or not here.chain) else live


def _deliver_to_socket(socket: Socket, place: int | None, packet: Arrival[Node]) -> Counter | None:
    if socket is Socket.CONNECTION:
        return Counter.DELIVER_SOCKET
    if socket is Socket.TIME_WAIT and not packet.opens and (packet.hop or place == 0):
        return Counter.DELIVER_TIME_WAIT
    if socket is Socket.COOKIE and not packet.opens and place is not None:
        return Counter.DELIVER_SYN_COOKIE
    return None


def _candidates(here: NodeState[Node], place: int | None, live_place: int | None, packet: Arrival[Node]) -> list[Node]:
    """Return the nodes that the packet may go to, in the order in which they are tried."""
    hop = packet.hop
    start = 0
    if place is not None and live_place and live_place < hop and packet.prev in here.chain[:place]:
        start = place + 1
    found = [node for node in here.chain[start:] if node != here.me and node not in here.silent]
    return [
        node
        for node in found
        if not (hop and node == packet.prev) and (here.reachable is None or node in here.reachable)
    ]
