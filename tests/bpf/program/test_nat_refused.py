# SPDX-License-Identifier: Apache-2.0
"""NAT: packets that have no session, and those that cannot reach the other end of theirs."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from support import packets
from support.nat_node import (
    GATEWAY,
    TABLE,
    WEB,
    Flow,
    Here,
    establish,
    frame,
    reply,
)
from support.packets import ACK

from bpf.layout.counter import Counter
from bpf.layout.nat_backend import NatHop


@pytest.mark.parametrize(
    ("flow", "flags", "verdict", "event"),
    [
        (Flow(), ACK, "tx", Counter.REPLY_RESET),
        (Flow(six=True), ACK, "tx", Counter.REPLY_RESET),
        (Flow(), packets.RST, "drop", Counter.DROP_NAT_NO_SESSION),
    ],
    ids=["IPv4", "IPv6", "RST"],
)
def test_segment_without_a_session(here: Here, flow: Flow, flags: int, verdict: str, event: Counter) -> None:
    outcome = here.program.observe(frame(flow.request(flags)))
    assert outcome.verdict == verdict
    assert outcome.events == {(WEB + flow.six, Counter.RX): 1, (WEB + flow.six, event): 1}
    assert here.used() == []


def test_reply_that_is_no_session_s(here: Here) -> None:
    slot, session = establish(here, Flow())
    unknown = {
        "another backend": replace(session, backend=IPv4Address("10.9.0.12")),
        "another port of it": replace(session, backend_port=1),
        "another protocol": replace(session, protocol=packets.UDP),
        "another endpoint": replace(session, nat_port=session.nat_port ^ 1),
        "a port below the pool's": replace(session, nat_port=session.nat_port - 32768),
    }
    for what, other in unknown.items():
        outcome = here.program.observe(frame(reply(other, ACK)))
        assert outcome.verdict == "drop", what
        assert outcome.events == {(TABLE, Counter.RX): 1, (TABLE, Counter.DROP_NAT_FOREIGN): 1}, what
    assert here.used() == [slot]


def test_what_else_is_to_the_pool_never_gets_to_the_kernel(here: Here) -> None:
    ping = packets.ipv4(packets.icmp(b"?", kind=8), src="10.9.0.11", dst="10.255.0.1", protocol=packets.ICMP)
    fragment = packets.ipv4(bytes(16), src="10.9.0.11", dst="10.255.0.1", protocol=packets.UDP, fragment=0x2000)
    martian = packets.ipv4(bytes(16), src="127.0.0.1", dst="10.255.0.1", protocol=packets.UDP)
    for packet in (ping, fragment, martian):
        assert here.program.send(frame(packet))[0] == "drop"
    beyond = packets.ipv4(packets.icmp(b"?", kind=8), src="10.9.0.11", dst="10.255.0.2", protocol=packets.ICMP)
    assert here.program.send(frame(beyond))[0] == "pass"


def test_fragment_of_a_service(here: Here) -> None:
    packet = Flow(protocol=packets.UDP).request(ip={"fragment": 0x2000})
    outcome = here.program.observe(frame(packet))
    assert outcome.verdict == "drop"
    assert outcome.events[WEB, Counter.DROP_NAT_FRAGMENT] == 1


def test_next_hop_without_a_mac(here: Here) -> None:
    here.nat.write_hop(2, NatHop(None))
    assert here.program.observe(frame(Flow().request())).events[WEB, Counter.DROP_NAT_NO_MAC] == 1


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_last_hop(here: Here, six: bool) -> None:
    packet = Flow(six=six).request(ip={"hops": 1} if six else {"ttl": 1})
    assert here.program.observe(frame(packet)).events[WEB + six, Counter.DROP_NAT_TTL] == 1
    assert not here.used()


def test_too_big_for_the_next_hop(here: Here) -> None:
    flow = Flow()
    establish(here, flow)
    here.nat.write_hop(2, NatHop(GATEWAY, mtu=600))
    outcome = here.program.observe(frame(flow.request(ACK, bytes(700), seq=101, ack=5001)))
    assert (outcome.verdict, outcome.events[WEB, Counter.REPLY_TOO_BIG]) == ("tx", 1)
    assert outcome.packet[14 + 20 : 14 + 22] == bytes([3, 4])
    assert int.from_bytes(outcome.packet[14 + 26 : 14 + 28], "big") == 600
