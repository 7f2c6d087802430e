# SPDX-License-Identifier: Apache-2.0
"""NAT where other nodes come in: rows that others own, packets that others forwarded, grace, tunnels, two epochs."""

import time
from dataclasses import replace
from typing import Any

import pytest
from support import packets
from support.nat_node import (
    FLOWS,
    FOREVER,
    IDS,
    KEY,
    OTHER_KEY,
    TABLE,
    WEB,
    Flow,
    Here,
    establish,
    frame,
    reply,
    to_backend,
    to_client,
)
from support.packets import ACK

from bpf.layout.conf import OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.nat import row_of_slot
from bpf.layout.service import Forward
from bpf.layout.session import OWNER_WAYS, WAYS


def chain(here: Here, *nodes: int, **more: Any) -> None:
    here.program.set_chain(TABLE, nodes, **more)


def marked(packet: bytes, hop: int, node: int) -> bytes:
    return frame(packet, packets.marker(hop, 10 + node))


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_another_node_owns_the_row(here: Here, flow: Flow) -> None:
    """Straight from the router everything goes to the owner, although this node has a copy."""
    slot, session = establish(here, flow)
    chain(here, 2, 1)
    for packet, counted in ((flow.request(ACK), WEB + flow.six), (reply(session, ACK), TABLE)):
        outcome = here.program.observe(frame(packet))
        assert outcome.verdict == "tx"
        assert outcome.events == {(counted, Counter.RX): 1, (counted, Counter.FORWARD_FIRST): 1}
        assert outcome.packet[:12] == packets.mac("02:00:00:00:00:02") + packets.marker(1, 11)
        assert outcome.packet[14 : 14 + len(packet)] == packet
    assert here.used() == [slot]


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_forwarded_here_by_the_owner(here: Here, flow: Flow) -> None:
    """What the owner does not have may be here; else it goes on down the chain."""
    _, session = establish(here, flow)
    chain(here, 2, 1, 3)
    request, answer = flow.request(ACK), reply(session, ACK)
    assert here.program.send(marked(request, 1, 2))[1] == to_backend(session, request)
    assert here.program.send(marked(answer, 1, 2))[1] == to_client(session, answer)
    here.sessions.tags[:] = 0
    for packet in (request, answer) if flow.protocol == packets.TCP else (answer,):
        outcome = here.program.observe(marked(packet, 1, 2))
        assert Counter.FORWARD_AGAIN in {event for _, event in outcome.events}
        assert outcome.packet[:6] == packets.mac("02:00:00:00:00:03")


def test_new_session_that_another_node_forwarded(here: Here) -> None:
    chain(here, 2, 1)
    here.program.send(marked(Flow().request(), 1, 2))
    assert here.only()[0] % WAYS >= OWNER_WAYS, "the owner does not use these ways"


def test_owner_while_sessions_may_still_be_handed_over(here: Here) -> None:
    """It makes sessions where no earlier owner did. A datagram's may be elsewhere, so it is looked for there."""
    chain(here, 1, 2)
    here.nat.pulls[:] = FOREVER
    here.program.send(frame(Flow().request()))
    assert here.only()[0] % WAYS >= OWNER_WAYS
    here.sessions.tags[:] = 0
    outcome = here.program.observe(frame(Flow(protocol=packets.UDP).request()))
    assert outcome.events[WEB, Counter.FORWARD_FIRST] == 1
    chain(here, 1)
    assert here.program.send(frame(Flow(protocol=packets.UDP).request()))[0] == "tx", "there is no other node"


def test_row_in_grace(here: Here) -> None:
    chain(here, 1, grace_until_ns=time.monotonic_ns() + 10**11)
    outcome = here.program.observe(frame(Flow().request(ACK)))
    assert outcome.events[WEB, Counter.DROP_GRACE] == 1


def test_no_member(here: Here) -> None:
    chain(here)
    for packet in (Flow().request(), Flow().request(ACK)):
        assert here.program.observe(frame(packet)).events[WEB, Counter.DROP_NO_MEMBER] == 1
    assert here.used() == []


def test_by_tunnel(here: Here) -> None:
    here.nat.write_conf(replace(here.conf, forward=Forward.GUE))
    flow = Flow()
    chain(here, 2, 1)
    outcome = here.program.observe(frame(flow.request()))
    assert outcome.events[WEB, Counter.FORWARD_FIRST] == 1
    outer = packets.ipv4(
        packets.gue(flow.request(ACK)), src="10.0.0.12", dst="10.0.0.11", protocol=packets.UDP, ident=1
    )
    chain(here, 1, 2)
    slot, session = establish(here, flow)
    expected = to_backend(session, flow.request(ACK))
    assert here.program.send(frame(outer))[1].rstrip(b"\0") == expected.rstrip(b"\0")
    inner = reply(session, ACK)
    outer = packets.ipv4(packets.gue(inner), src="10.0.0.12", dst="10.0.0.11", protocol=packets.UDP, ident=1)
    assert here.program.send(frame(outer))[1].rstrip(b"\0") == to_client(session, inner).rstrip(b"\0")
    assert here.used() == [slot]


def test_session_of_the_other_epoch(here: Here) -> None:
    """Its slot is in the row of the key that it was made with, and both are looked in."""
    flow = Flow()
    slot, session = establish(here, flow)
    here.program.set_chain(TABLE, [1], bank=1)
    here.program.maps.conf.write(replace(here.node, hash_key=OTHER_KEY, bank=1, other=OtherEpoch(KEY)))
    assert row_of_slot(slot) == flow.row(KEY) != flow.row(OTHER_KEY)
    for packet, expected in (
        (flow.request(ACK, seq=101, ack=5001), to_backend),
        (reply(session, ACK, seq=5001, ack=101), to_client),
    ):
        assert here.program.send(frame(packet))[1] == expected(session, packet)
    fresh = Flow(41000)
    here.program.send(frame(fresh.request()))
    (made,) = set(here.used()) - {slot}
    assert row_of_slot(made) == fresh.row(OTHER_KEY)
