# SPDX-License-Identifier: Apache-2.0
"""One step of a packet's walk: what this node's program does with the packet, by the reference of its rule. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from agent.address import Network
from agent.channel.trace import TraceReply, TraceRequest
from agent.model import LocalSocket
from bpf.layout.counter import Counter
from bpf.reference.pick import WHY, Arrival, NodeState, Socket, pick

NO_DATA_PATH: Final = "no_data_path"
NOT_ATTACHED: Final = "not_attached"
UNREADABLE: Final = "unreadable"
_SOCKETS: Final = {LocalSocket.CONNECTION: Socket.CONNECTION, LocalSocket.TIME_WAIT: Socket.TIME_WAIT}
"""A listener counts for the rule only if the packet answers its SYN cookie, and no packet is at hand."""
_NEW_FLOW: Final = (Counter.DELIVER_OWNER, Counter.DELIVER_FORWARDED_SYN, Counter.DELIVER_UDP)
_NOWHERE: Final = (Counter.DELIVER_ONLY_NODE, Counter.DELIVER_CHAIN_END, Counter.PASS_NO_MEMBER)
_REASONS: Final = {counter.name.lower(): why for counter, why in WHY.items()} | {
    NO_DATA_PATH: "its data path is off (xdp.mode): its kernel answers",
    NOT_ATTACHED: "its XDP program is not attached: its kernel answers",
    UNREADABLE: "its maps cannot be read; see its log",
    Counter.PASS_NO_SERVICE.name.lower(): "it knows no service of this flow: its kernel answers",
    Counter.DROP_DENIED.name.lower(): "the client's address is on its deny list",
    Counter.FORWARD_BACKEND.name.lower(): "its session is here, or is made here",
    Counter.REPLY_RESET.name.lower(): "no node is left to try, and none has its session",
    Counter.DROP_NO_MEMBER.name.lower(): "the row is empty, and the service drops such packets (when_no_member)",
}


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """The inputs of the next-hop rule (bpf/reference/pick.py), apart from the packet and its socket."""

    epoch: int
    """That of new flows."""
    chain: tuple[IPv4Address, ...]
    """The nodes to try; of two epochs' rows, joined."""
    up: bool
    grace: bool
    reachable: frozenset[IPv4Address]
    silent: frozenset[IPv4Address]
    awaited: frozenset[IPv4Address]
    unmetered: int
    drop_no_member: bool
    narrow: frozenset[IPv4Address] = frozenset()
    """The nodes whose tunnel takes no new IPv6 flow."""
    any_narrow: bool = False
    """Whether the flow may be here because of such a tunnel to any node."""
    nat_rows: tuple[int, ...] = ()
    """Of a service of mode nat: the rows that its session may be in; empty for any other."""


def reason(event: str) -> str:
    """Return the reason of an event in a few words; none for one of a later release."""
    return _REASONS.get(event, "")


def nat_event(event: Counter, has_session: bool) -> Counter:
    """Return what the NAT program counts for a client's packet where the next-hop rule decides for this event."""
    if event in _NOWHERE and not has_session:
        return Counter.REPLY_RESET
    return Counter.FORWARD_BACKEND if event in _NOWHERE or event.name.startswith("DELIVER_") else event


def next_step(
    own: IPv4Address,
    request: TraceRequest,
    facts: FlowFacts | None,
    socket: LocalSocket,
    denied: Iterable[Network] = (),
) -> TraceReply:
    """Return what the node `own` does with a packet, by what its program knows; `facts` None: no service of the flow.

    A forward that is metered counts as within the limit. Of NAT, `socket` is CONNECTION if the flow's session is here.
    """
    if facts is None:
        return TraceReply(request.number, Counter.PASS_NO_SERVICE.name.lower(), socket=socket)
    state = NodeState(
        own,
        facts.chain,
        _SOCKETS.get(socket, Socket.NONE),
        facts.up,
        facts.grace,
        facts.reachable,
        facts.silent,
        facts.awaited,
        unmetered=facts.unmetered,
        narrow=facts.narrow if request.opens else (),
        any_narrow=facts.any_narrow,
    )
    udp = request.flow.protocol == "udp"
    decision = pick(state, Arrival(request.opens, request.hop, request.prev, udp, request.in_grace))
    event, to, hop = decision.event, decision.to, decision.hop
    if any(request.flow.client in network for network in denied):
        event, to, hop = Counter.DROP_DENIED, None, 0
    elif not facts.chain and facts.drop_no_member and event not in _NEW_FLOW:
        event = Counter.DROP_NO_MEMBER
    elif facts.nat_rows:
        event = nat_event(event, socket is LocalSocket.CONNECTION)
    others = frozenset(facts.chain) - {own}
    return TraceReply(
        number=request.number,
        event=event.name.lower(),
        to=to,
        hop=hop,
        chain=facts.chain,
        socket=socket,
        up=facts.up,
        grace=facts.grace,
        epoch=facts.epoch,
        unreachable=others - facts.reachable - facts.silent,
        silent=facts.silent,
        awaited=facts.awaited,
    )
