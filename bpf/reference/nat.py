# SPDX-License-Identifier: Apache-2.0
"""What the NAT program does with a packet: the rules of NAT mode in pure Python, for `lbctl explain` and the tests.

A packet of a NAT service, or to an address of the pool, has a row: by its flow's hash, or by the slot that its
destination is. The next-hop rule (pick.py) decides as for any service, with a session here in place of a socket: the
packet is translated here, makes a session here, goes to another node, or belongs to no session that any node knows.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from bpf.layout.counter import Counter
from bpf.layout.session import Session, SessionState
from bpf.reference.pick import Arrival, NodeState, pick
from bpf.reference.session import Progress, Segment, followed
from bpf.reference.translation import Ends, reset_for, translate, translate_error

Node = TypeVar("Node", bound=Hashable)

_NO_SEGMENT: Final = Segment()


def to_backend(session: Session) -> Ends:
    """Return the ends of the packets that a session sends to its backend."""
    return Ends(session.nat, session.nat_port, session.backend, session.backend_port)


def to_client(session: Session) -> Ends:
    """Return the ends of the packets that a session sends to its client."""
    return Ends(session.vip, session.vip_port, session.client, session.client_port)


@dataclass(frozen=True)
class Packet(Generic[Node]):
    """A whole IP packet that came: `data`, without what follows it in the frame.

    `from_client`: it is to a VIP, else to the pool. `error`: an ICMP error, whose session is that of its quote.
    `hop`, `prev` and `in_grace` are as in pick.py.
    """

    data: bytes
    from_client: bool
    segment: Segment = _NO_SEGMENT
    error: bool = False
    fragment: bool = False
    hop: int = 0
    prev: Node | None = None
    in_grace: bool = False

    @property
    def opens(self) -> bool:
        """Return whether the packet may make a session."""
        new = self.segment.udp or (self.segment.syn and not self.segment.ack)
        return new and self.from_client and not self.error


@dataclass(frozen=True)
class Outcome(Generic[Node]):
    """What happens: `event`, and `data`, the IP packet that leaves.

    It goes to the node `to` with `hop`, `in_grace` or not, or to the session's other end, or back to the client
    (REPLY_RESET). `progress` is the session's afterwards; None: there is none, or it is as before. `retires`: the
    session that was found is over, and its client opens another one, here or at the node that gets the packet, so
    nothing of the new one belongs to it.
    """

    event: Counter
    data: bytes = b""
    to: Node | None = None
    hop: int = 0
    in_grace: bool = False
    progress: Progress | None = None
    retires: bool = False


Known = tuple[Session, Progress]
"""A session's record, and how far it is."""


def handle(
    here: NodeState[Node],
    packet: Packet[Node],
    found: Known | None,
    new: Known | Counter,
    mss: int = 0,
    other_owner: Node | None = None,
) -> Outcome[Node]:
    """Decide what happens to a packet at a node, whose chain of the row is in `here` (its socket does not count).

    `found`: the flow's session in its buckets, or the slot's if the packet is from its backend. `new`: the session that
    the packet would make, or why it cannot: DROP_NAT_FULL, DROP_NAT_NO_BACKEND. `mss`: the largest allowed, 0 for any.
    `other_owner`: who owns the flow's row in the other epoch, if two are used; `here` has the joined chain.
    """
    if packet.fragment:
        return Outcome(Counter.DROP_NAT_FRAGMENT)
    # Straight from the router only an owner looks for a session: it is followed in one place.
    owner = here.chain[0] if here.chain else None
    looks = packet.hop or owner is None or here.me in (owner, other_owner) or not _is_reachable(here, owner)
    if found and looks and packet.opens and _is_over(found[1]):  # the client uses its port again
        return replace(_without_session(here, packet, new, mss), retires=True)
    if found and looks:
        return _translated(found, packet, mss)
    return _without_session(here, packet, new, mss)


def _without_session(here: NodeState[Node], packet: Packet[Node], new: Known | Counter, mss: int) -> Outcome[Node]:
    """Decide what happens to a packet that has no session here, or may not use it."""
    owner = here.chain[0] if here.chain else None
    udp = packet.segment.udp and packet.from_client
    decision = pick(here, Arrival(packet.opens, packet.hop, packet.prev, udp, packet.in_grace))
    if decision.to is not None:
        return Outcome(decision.event, packet.data, decision.to, decision.hop, decision.in_grace)
    if owner is None and not decision.event.name.startswith("DELIVER_"):
        return Outcome(Counter.DROP_NO_MEMBER)
    if decision.event.name.startswith("DROP_"):
        return Outcome(decision.event)
    if packet.opens:
        return Outcome(new) if isinstance(new, Counter) else _translated(new, packet, mss)
    return _unknown(packet)


def _is_reachable(here: NodeState[Node], node: Node) -> bool:
    return node not in here.silent and (here.reachable is None or node in here.reachable)


def _is_over(progress: Progress) -> bool:
    return progress.state in (SessionState.FIN, SessionState.CLOSED)


def _translated(known: Known, packet: Packet[Node], mss: int) -> Outcome[Node]:
    """Send a packet on to the other end of its session; one whose TTL ends here is dropped."""
    session, progress = known
    if packet.data[8 if packet.data[0] >> 4 == 4 else 7] <= 1:
        return Outcome(Counter.DROP_NAT_TTL)
    event = Counter.FORWARD_BACKEND if packet.from_client else Counter.FORWARD_CLIENT
    ends = to_backend(session) if packet.from_client else to_client(session)
    if packet.error:
        return Outcome(event, translate_error(packet.data, ends, ends.reversed()))
    after = followed(progress, packet.segment, packet.from_client)
    return Outcome(event, translate(packet.data, ends, mss), progress=after)


def _unknown(packet: Packet[Node]) -> Outcome[Node]:
    """Answer a client's segment with an RST; drop any other packet that no node has a session for."""
    if not packet.from_client:
        return Outcome(Counter.DROP_NAT_FOREIGN)
    reset = None if packet.error or packet.segment.udp else reset_for(packet.data)
    return Outcome(Counter.REPLY_RESET, reset) if reset else Outcome(Counter.DROP_NAT_NO_SESSION)
