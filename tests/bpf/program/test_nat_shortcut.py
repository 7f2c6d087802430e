# SPDX-License-Identifier: Apache-2.0
"""The shortcut for packets of established sessions: without the programs of NAT, which the tail calls lead to."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from support import packets
from support.nat_node import (
    CLIENT_GATEWAY,
    FLOWS,
    GATEWAY,
    TABLE,
    VIP,
    VIP6,
    WEB,
    Flow,
    Here,
    establish,
    frame,
    reply,
    to_backend,
    to_client,
)
from support.packets import ACK, FIN, ROUTER, RST, SYN

from bpf.compiler.build import tail_calls_pin
from bpf.kernel import bpf_map
from bpf.kernel.libbpf import library
from bpf.kernel.pin import open_pin
from bpf.layout.counter import Counter
from bpf.layout.nat_backend import NatHop
from bpf.layout.session import SessionState
from bpf.maps.session_map import now_tick


@contextlib.contextmanager
def first_program_alone(here: Here) -> Iterator[None]:
    """A packet that the first program leaves to another one passes, as it came."""
    calls = open_pin(tail_calls_pin(here.program.pin))
    assert calls is not None
    tails = {}
    for key in bpf_map.keys(calls, 4):
        if number := bpf_map.lookup(calls, key, 4):
            tails[key] = library().bpf_prog_get_fd_by_id(int.from_bytes(number, "little"))
            bpf_map.delete(calls, key)
    assert tails
    try:
        yield
    finally:
        for key, fd in tails.items():
            bpf_map.update(calls, key, fd.to_bytes(4, "little"))
            os.close(fd)
        os.close(calls)


@pytest.mark.parametrize("flow", FLOWS[:2], ids=["TCP", "UDP"])
def test_established_session(here: Here, flow: Flow) -> None:
    slot, session = establish(here, flow)
    here.sessions.tags[slot] -= 5
    request, answer = (
        flow.request(ACK, b"more", seq=101, ack=5001 + 2**20), reply(session, ACK, seq=5001, ack=101 + 2**20)
    )  # fmt: skip
    with first_program_alone(here):
        outcome = here.program.observe(frame(request))
        assert (outcome.verdict, outcome.packet) == ("tx", to_backend(session, request))
        assert outcome.events == {(WEB, Counter.RX): 1, (WEB, Counter.FORWARD_BACKEND): 1}
        outcome = here.program.observe(frame(answer, packets.marker(1, 12)))
        assert (outcome.verdict, outcome.packet) == ("tx", to_client(session, answer))
        assert outcome.events == {(WEB, Counter.RX_FORWARDED): 1, (WEB, Counter.FORWARD_CLIENT): 1}
    assert here.tag(slot).state is SessionState.EST
    assert now_tick() - here.tag(slot).stamp in (0, 1)
    if flow.protocol == packets.TCP:
        after = here.sessions.read(slot)
        assert (after.client_ack, after.backend_ack) == (5001 + 2**20, 101 + 2**20)


def test_session_in_either_bucket(here: Here) -> None:
    """Of 64 flows, some are in the first of their buckets and some in the second."""
    flows = [Flow(port) for port in range(40000, 40064)]
    sessions = [establish(here, flow)[1] for flow in flows]
    with first_program_alone(here):
        for flow, session in zip(flows, sessions, strict=True):
            request, answer = flow.request(ACK, seq=101, ack=5001), reply(session, ACK, seq=5001, ack=101)
            assert here.program.send(frame(request)) == ("tx", to_backend(session, request))
            assert here.program.send(frame(answer)) == ("tx", to_client(session, answer))


def test_forwarded_to_a_node_that_does_not_own_the_row(here: Here) -> None:
    flow = Flow()
    _, session = establish(here, flow)
    here.program.set_chain(TABLE, [2, 1])
    request = flow.request(ACK, seq=101, ack=5001)
    with first_program_alone(here):
        assert here.program.send(frame(request, packets.marker(1, 12))) == ("tx", to_backend(session, request))
        assert here.program.send(frame(request)) == ("pass", frame(request)), "the owner is asked first"


def test_an_answer_to_an_address_that_shares_its_bit_of_the_filter_with_a_vip(here: Here) -> None:
    _, session = establish(here, Flow())
    answer = reply(session, ACK, seq=5001, ack=101)
    conf, before = here.program.maps.conf, here.program.maps.conf.vip_filter()
    conf.set_vip_filter([ip_address(VIP), session.nat])
    assert conf.vip_filter().bit_count() == 2
    try:
        with first_program_alone(here):
            assert here.program.send(frame(answer)) == ("tx", to_client(session, answer))
    finally:
        conf.set_vip_filter([ip_address(VIP), ip_address(VIP6)])
    assert conf.vip_filter() == before


ACKED = {"seq": 101, "ack": 5001}


@pytest.mark.parametrize(
    "request_", [
        Flow().request(SYN, b"", seq=101), Flow().request(ACK | FIN, b"", **ACKED),
        Flow().request(ACK | RST, b"", **ACKED), Flow().request(0, **ACKED),
        Flow().request(ACK, ip={"ttl": 1}, **ACKED), Flow().request(ACK, bytes(1400), **ACKED),
        Flow(40001).request(ACK, **ACKED),
    ],
    ids=["SYN", "FIN", "RST", "without ACK", "TTL 1", "too large", "other flow"],
)  # fmt: skip
def test_other_packets_are_left_as_they_came(here: Here, request_: bytes) -> None:
    slot, _ = establish(here, Flow())
    here.nat.write_hop(2, NatHop(GATEWAY, mtu=1400))
    here.sessions.tags[slot] -= 5
    tag, record = here.tag(slot), here.sessions.read(slot)
    with first_program_alone(here):
        outcome = here.program.observe(frame(request_))
    assert (outcome.verdict, outcome.packet, outcome.events) == ("pass", frame(request_), {})
    assert (here.tag(slot), here.sessions.read(slot)) == (tag, record)


@pytest.mark.parametrize("change", ["address", "port", "pool", "half-open", "no MAC", "VLAN"])
def test_other_answers_are_left_as_they_came(here: Here, change: str) -> None:
    slot, session = establish(here, Flow())
    other = {
        "address": replace(session, backend=session.backend + 1),
        "port": replace(session, backend_port=session.backend_port + 1),
        "pool": replace(session, nat=session.nat + (1 if int(session.nat) % 2 == 0 else -1)),
    }
    if change == "half-open":
        here.sessions.tags[slot] -= (SessionState.EST - SessionState.SYN) << 40
    if change in ("no MAC", "VLAN"):
        here.nat.write_hop(1, NatHop(None) if change == "no MAC" else NatHop(CLIENT_GATEWAY, vlan=5))
    here.sessions.tags[slot] -= 5
    tag, record = here.tag(slot), here.sessions.read(slot)
    answer = frame(reply(other.get(change, session), ACK, seq=5001, ack=101), ROUTER)
    with first_program_alone(here):
        outcome = here.program.observe(answer)
    assert (outcome.verdict, outcome.packet, outcome.events) == ("pass", answer, {})
    assert (here.tag(slot), here.sessions.read(slot)) == (tag, record)
