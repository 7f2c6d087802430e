# SPDX-License-Identifier: Apache-2.0
"""What the program does with a packet of a service: a pure twin of pick.h, for `explain` and for the tests.

pick.h states the rule and its reasons. Here nodes are any hashable names; the real program knows them by index
(chains) and by tag (who forwarded a packet).
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from bpf.layout.counter import Counter
from bpf.layout.join_order import join_order
from bpf.layout.limits import CHAIN

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

    `opens`: it needs no socket to be there: a SYN, any UDP. `hop`: forwards so far, the last by `prev`.
    """

    opens: bool
    hop: int = 0
    prev: Node | None = None
    udp: bool = False


@dataclass(frozen=True)
class NodeState(Generic[Node]):
    """What a node knows when the packet comes.

    `up`: it takes new connections of the service. `grace`: the row changed just now. `reachable`: nodes whose MAC
    is or was known, None for all. `budget`: whether the CPU may still forward beyond the first `unmetered` times.
    """

    me: Node
    chain: Sequence[Node]
    socket: Socket = Socket.NONE
    up: bool = True
    grace: bool = False
    reachable: Collection[Node] | None = None
    budget: bool = True
    unmetered: int = 1


@dataclass(frozen=True)
class Decision(Generic[Node]):
    """`event` says what happens; `to` is the next node if the packet is forwarded, then with `hop`."""

    event: Counter
    to: Node | None = None
    hop: int = 0

    @property
    def why(self) -> str:
        """The reason in a few words."""
        return WHY[self.event]


WHY: Final = {
    Counter.PASS_NO_MEMBER: "the row is empty: no member",
    Counter.DELIVER_OWNER: "a new connection, and this node owns the row",
    Counter.DELIVER_FORWARDED_SYN: "a new connection that was forwarded to this node",
    Counter.DELIVER_UDP: "a datagram, and this node owns the row or was handed it",
    Counter.DELIVER_SOCKET: "its connection is here",
    Counter.DELIVER_TIME_WAIT: "a TIME-WAIT socket of it is here",
    Counter.DELIVER_SYN_COOKIE: "it answers a SYN cookie of this node",
    Counter.DELIVER_ONLY_NODE: "this node is the row's only member",
    Counter.DELIVER_CHAIN_END: "no node left to ask: the kernel answers (RST)",
    Counter.FORWARD_FIRST: "the next node of the chain is asked",
    Counter.FORWARD_AGAIN: "not here: the next node of the chain is asked",
    Counter.DROP_GRACE: "no node left to ask, but the row changed just now: TCP sends again",
    Counter.DROP_HOP_LIMIT: "forwarded too often: tables disagree",
    Counter.DROP_RATE_LIMIT: "too many second forwards on this CPU",
}


def joined(first: Sequence[Node], other: Sequence[Node] | None, alternating: bool = False) -> tuple[Node, ...]:
    """The chain that a node tries when it looks into the rows of two epochs, `first` being that of new flows.

    Alternating, the owners of both epochs stand at its head: right where all nodes look into both. Else the other's
    places come last, so that those before have the numbers that they have at nodes which know only the first.
    """
    if other is None or not first:
        return tuple(first)
    order = join_order(alternating)
    two = dict(enumerate(first)) | {CHAIN + place: node for place, node in enumerate(other)}
    return tuple(dict.fromkeys(two[place] for place in order if place in two))


def pick(here: NodeState[Node], packet: Arrival[Node]) -> Decision[Node]:
    """Decide as the program does."""
    chain, hop = here.chain, packet.hop
    place = chain.index(here.me) if here.me in chain else None
    alone = not chain or (place == 0 and len(chain) == 1)
    if packet.opens and (place == 0 or hop >= 2 or (hop == 1 and here.up)):
        if packet.udp:
            return Decision(Counter.DELIVER_UDP)
        return Decision(Counter.DELIVER_OWNER if place == 0 else Counter.DELIVER_FORWARDED_SYN)
    if alone and (packet.opens or not here.grace):
        return Decision(Counter.DELIVER_ONLY_NODE if chain else Counter.PASS_NO_MEMBER)
    if alone or place is not None or hop:
        found = _deliver_to_socket(here.socket, place, packet)
        if found is not None:
            return Decision(found)
    if hop > CHAIN:
        return Decision(Counter.DROP_HOP_LIMIT)
    to = _next_node(here, place, packet)
    if to is None:
        return Decision(Counter.DROP_GRACE if here.grace else Counter.DELIVER_CHAIN_END)
    if hop == 0:
        return Decision(Counter.FORWARD_FIRST, to, 1)
    if hop < here.unmetered or here.budget:
        return Decision(Counter.FORWARD_AGAIN, to, hop + 1)
    return Decision(Counter.DROP_RATE_LIMIT)


def _deliver_to_socket(socket: Socket, place: int | None, packet: Arrival[Node]) -> Counter | None:
    if socket is Socket.CONNECTION:
        return Counter.DELIVER_SOCKET
    if socket is Socket.TIME_WAIT and not packet.opens and (packet.hop or place == 0):
        return Counter.DELIVER_TIME_WAIT
    if socket is Socket.COOKIE and not packet.opens and place is not None:
        return Counter.DELIVER_SYN_COOKIE
    return None


def _next_node(here: NodeState[Node], place: int | None, packet: Arrival[Node]) -> Node | None:
    hop = packet.hop
    as_explained = place is not None and (place == 0 or (place < hop and packet.prev in here.chain[:place]))
    start = place + 1 if place is not None and as_explained else 0
    for node in here.chain[start:]:
        if node == here.me or (hop and node == packet.prev):
            continue
        if here.reachable is None or node in here.reachable:
            return node
    return None
