# SPDX-License-Identifier: Apache-2.0
"""NAT's decisions, one by one: what a node does with a packet, by its place in the row and what it has."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet as Layers

from bpf.layout.counter import Counter
from bpf.layout.session import Session, SessionState
from bpf.reference.nat import Outcome, Packet, handle, to_backend, to_client
from bpf.reference.pick import NodeState
from bpf.reference.session import Progress, Segment
from bpf.reference.translation import Ends, reset_for

SESSION = Session(
    6, IPv4Address("10.1.0.2"), 40000, IPv4Address("10.99.0.1"), 80, IPv4Address("10.9.0.11"), 8080,
    IPv4Address("10.255.0.3"), 33000, 1, 1,
)  # fmt: skip
EST = Progress(SessionState.EST, client_ack=5000, backend_ack=1000)
KNOWN = SESSION, EST
NEW = SESSION, Progress(SessionState.SYN, backend_ack=1)
FROM_CLIENT, FROM_BACKEND = to_client(SESSION).reversed(), to_backend(SESSION).reversed()
OWNER, SECOND, OUTSIDER = (NodeState(1, chain) for chain in ((1, 2, 3), (2, 1, 3), (2, 3)))


def built(ends: Ends, transport: Layers, ttl: int = 64) -> bytes:
    transport.sport, transport.dport = ends.source_port, ends.target_port
    return bytes(IP(src=str(ends.source), dst=str(ends.target), ttl=ttl) / transport)


def packet(flags: str = "A", reply: bool = False, ttl: int = 64, **more: Any) -> Packet[int]:
    data = built(FROM_BACKEND if reply else FROM_CLIENT, TCP(flags=flags), ttl)
    segment = Segment("S" in flags, "A" in flags, "F" in flags, "R" in flags)
    return Packet(data, not reply, segment, **more)


def datagram(reply: bool = False, **more: Any) -> Packet[int]:
    return Packet(built(FROM_BACKEND if reply else FROM_CLIENT, UDP()), not reply, Segment(udp=True), **more)


def decide(here: NodeState[int], what: Packet[int], found: Any = None, new: Any = NEW, **more: Any) -> Outcome[int]:
    return handle(here, what, found, new, **more)


@pytest.mark.parametrize(("here", "came"), [(OWNER, {}), (SECOND, {"hop": 1, "prev": 2}), (OUTSIDER, {"hop": 2})])
def test_packet_of_a_session_here_goes_to_its_other_end(here: NodeState[int], came: dict[str, int]) -> None:
    there, back = decide(here, packet(**came), KNOWN), decide(here, packet(reply=True, **came), KNOWN)
    assert (there.event, there.data) == (Counter.FORWARD_BACKEND, built(to_backend(SESSION), TCP(flags="A"), 63))
    assert (back.event, back.data) == (Counter.FORWARD_CLIENT, built(to_client(SESSION), TCP(flags="A"), 63))
    assert there.to is back.to is None


def test_only_the_owner_looks_for_a_session_straight_from_the_router() -> None:
    assert decide(SECOND, packet(), KNOWN).to == 2
    assert decide(replace(SECOND, silent=(2,)), packet(), KNOWN).event == Counter.FORWARD_BACKEND


@pytest.mark.parametrize("what", [packet("S"), packet(), packet(reply=True), datagram(), datagram(reply=True)])
def test_outsider_sends_it_to_the_owner(what: Packet[int]) -> None:
    assert decide(OUTSIDER, what) == Outcome(Counter.FORWARD_FIRST, what.data, 2, 1)


@pytest.mark.parametrize("what", [packet("S"), datagram()])
def test_owner_makes_a_session(what: Packet[int]) -> None:
    made = decide(OWNER, what)
    assert made.event == Counter.FORWARD_BACKEND
    assert made.progress
    assert made.progress.state is SessionState.SYN


def test_forwarded_syn_makes_a_session_where_the_node_takes_new_ones() -> None:
    what = packet("S", hop=1, prev=2)
    assert decide(SECOND, what).event == Counter.FORWARD_BACKEND
    assert decide(replace(SECOND, up=False), what).to == 3


@pytest.mark.parametrize("why", [Counter.DROP_NAT_FULL, Counter.DROP_NAT_NO_BACKEND])
def test_session_that_cannot_be_made(why: Counter) -> None:
    assert decide(OWNER, packet("S"), new=why) == Outcome(why)


def test_reply_never_makes_a_session() -> None:
    for what in (packet("S", reply=True), datagram(reply=True)):
        assert decide(OWNER, what).to == 2
        assert decide(replace(OWNER, chain=(1,)), what).event == Counter.DROP_NAT_FOREIGN


@pytest.mark.parametrize("state", [SessionState.SYN, SessionState.EST])
def test_syn_again_is_of_its_session(state: SessionState) -> None:
    found = SESSION, replace(EST, state=state)
    assert decide(OWNER, packet("S"), found, new=Counter.DROP_NAT_FULL).event == Counter.FORWARD_BACKEND


@pytest.mark.parametrize("state", [SessionState.FIN, SessionState.CLOSED])
def test_syn_after_the_end_makes_another_session(state: SessionState) -> None:
    found = SESSION, replace(EST, state=state)
    assert decide(OWNER, packet("S"), found, new=Counter.DROP_NAT_FULL).event == Counter.DROP_NAT_FULL


def test_segment_that_no_node_knows_is_reset_after_grace() -> None:
    last = NodeState(1, (2, 1))
    what = packet(hop=1, prev=2)
    assert decide(last, what) == Outcome(Counter.REPLY_RESET, reset_for(what.data) or b"")
    assert decide(replace(last, grace=True), what).event == Counter.DROP_GRACE
    assert decide(last, packet("R", hop=1, prev=2)).event == Counter.DROP_NAT_NO_SESSION
    assert decide(last, packet(reply=True, hop=1, prev=2)).event == Counter.DROP_NAT_FOREIGN


def test_fragments_are_dropped() -> None:
    assert decide(OWNER, replace(packet(), fragment=True), KNOWN) == Outcome(Counter.DROP_NAT_FRAGMENT)


def test_packet_whose_ttl_ends_here_is_dropped() -> None:
    assert decide(OWNER, packet(ttl=1), KNOWN) == Outcome(Counter.DROP_NAT_TTL)
    assert decide(OWNER, packet(ttl=2), KNOWN).event == Counter.FORWARD_BACKEND


def test_errors_go_to_the_other_end_and_change_nothing() -> None:
    error = bytes(IP(src="172.16.0.9", dst="10.99.0.1") / ICMP(type=3, code=4) / built(to_client(SESSION), TCP()))
    what = Packet[int](error, True, error=True)
    sent = decide(OWNER, what, KNOWN)
    assert (sent.event, sent.progress) == (Counter.FORWARD_BACKEND, None)
    assert IP(sent.data)[ICMP].payload.src == "10.9.0.11"
    assert decide(replace(OWNER, chain=(1,)), what).event == Counter.DROP_NAT_NO_SESSION
