# SPDX-License-Identifier: Apache-2.0
"""NAT on one node: the real program, its sessions in real maps. test_nat_chains.py has several nodes."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from support import packets
from support.nat_node import (
    BACKENDS,
    BACKENDS6,
    FLOWS,
    GATEWAY,
    IDS,
    POOL,
    POOL6,
    TABLE,
    VIP,
    WEB,
    Flow,
    Here,
    establish,
    frame,
    ip_packet,
    reply,
    to_backend,
    to_client,
)
from support.packets import ACK, FIN, HERE, ROUTER, RST, SYN

from bpf.layout.counter import Counter
from bpf.layout.nat import endpoint, row_of_slot
from bpf.layout.nat_backend import BackendLoad, NatHop
from bpf.layout.session import OWNER_WAYS, WAYS, SessionState, TagFlag
from bpf.maps.session_map import now_tick


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_packets_both_ways(here: Here, flow: Flow) -> None:
    request = flow.request()
    outcome = here.program.observe(frame(request))
    slot, tag, session = here.only()
    service = WEB + flow.six
    assert outcome.verdict == "tx"
    assert outcome.events == {(service, Counter.RX): 1, (service, Counter.FORWARD_BACKEND): 1}
    assert outcome.packet == to_backend(session, request)
    assert (session.client, session.vip) == (ip_address(flow.ends["src"]), ip_address(flow.ends["dst"]))
    assert (session.backend, session.backend_port) == (ip_address((BACKENDS6 if flow.six else BACKENDS)[0]), 8443)
    assert (session.nat, session.nat_port) == endpoint(POOL6 if flow.six else POOL, slot)
    assert row_of_slot(slot) == flow.row()
    assert slot % WAYS < OWNER_WAYS
    assert tag.state is SessionState.SYN
    assert TagFlag.UDP in tag.flags if flow.protocol == packets.UDP else TagFlag.UDP not in tag.flags
    assert tag.stamp - now_tick() in (0, -1)

    answer = reply(session, SYN | ACK)
    outcome = here.program.observe(frame(answer))
    assert outcome.verdict == "tx"
    assert outcome.packet == to_client(session, answer)
    assert outcome.events == {(service, Counter.RX): 1, (service, Counter.FORWARD_CLIENT): 1}

    again = flow.request(ACK, b"more", seq=2, ack=2)
    assert here.program.send(frame(again))[1] == to_backend(session, again)
    assert here.used() == [slot], "one session"
    index = session.backend_index
    assert here.nat.load(index) == BackendLoad(1, 1)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_record_is_as_python_writes_it(here: Here, six: bool) -> None:
    """A checksum difference of 0 may be 0xffff too."""
    here.program.send(frame(Flow(six=six).request()))
    slot, _, session = here.only()
    records = here.sessions.sessions6 if six else here.sessions.sessions4
    assert records is not None
    assert records[slot].tobytes() == session.pack()


def test_connection_from_open_to_closed(here: Here) -> None:
    flow = Flow()
    here.program.send(frame(flow.request(seq=100)))
    slot, _, session = here.only()
    steps = [
        ("a forged acknowledgment before the SYN-ACK", flow.request(ACK, ack=77), SessionState.SYN),
        ("the SYN-ACK", reply(session, SYN | ACK, b"", seq=5000, ack=101), SessionState.SYN),
        ("a forged acknowledgment", flow.request(ACK, seq=101, ack=5001 + 2**22), SessionState.SYN),
        ("the acknowledgment", flow.request(ACK, seq=101, ack=5001), SessionState.EST),
        ("data", reply(session, ACK, seq=5001, ack=102), SessionState.EST),
        ("the backend's FIN", reply(session, ACK | FIN, b"", seq=5002, ack=102), SessionState.FIN),
        ("it again", reply(session, ACK | FIN, b"", seq=5002, ack=102), SessionState.FIN),
        ("the client's FIN", flow.request(ACK | FIN, b"", seq=102, ack=5003), SessionState.FIN),
        ("the last acknowledgment", reply(session, ACK, b"", seq=5003, ack=103), SessionState.CLOSED),
    ]
    for what, packet, state in steps:
        verdict, _ = here.program.send(frame(packet))
        assert verdict == "tx", what
        assert here.tag(slot).state is state, what
    flags = TagFlag.CLIENT_FIN | TagFlag.BACKEND_FIN | TagFlag.SYNACK_SEEN | TagFlag.CLOSED_BY_BACKEND
    assert here.tag(slot).flags == flags
    assert here.nat.load(1) == BackendLoad(0, 1)


@pytest.mark.parametrize(
    ("far", "from_client"), [(0, True), (2**21, True), (0, False), (2**21, False)],
    ids=["client", "client, forged", "backend", "backend, forged"],
)  # fmt: skip
def test_reset(here: Here, far: int, from_client: bool) -> None:
    flow = Flow()
    slot, session = establish(here, flow)
    packet = flow.request(RST, b"", seq=101 + far) if from_client else reply(session, RST, b"", seq=5001 + far)
    outcome = here.program.observe(frame(packet))
    assert outcome.verdict == "tx", "it is passed on in any case"
    assert outcome.events[WEB, Counter.RX_FAR_RESET] == bool(far)
    assert here.tag(slot).state is (SessionState.EST if far else SessionState.CLOSED)
    assert here.nat.load(1).active == bool(far)


def test_forged_fin_and_syn(here: Here) -> None:
    """A FIN that counted would let the SYN begin a new connection in place of this one."""
    flow = Flow()
    slot, session = establish(here, flow)
    for far in (2**21, 2**31, 2**32 - 2**21):
        here.program.send(frame(flow.request(ACK | FIN, b"", seq=101 + far & 0xFFFF_FFFF, ack=5001)))
        here.program.send(frame(flow.request(SYN, b"", seq=far)))
        assert here.tag(slot).state is SessionState.EST
        assert here.used() == [slot]
    data = flow.request(ACK, seq=101, ack=5001)
    assert here.program.send(frame(data))[1] == to_backend(session, data)


def test_first_acknowledgment_that_is_guessed_lasts_until_the_backend_resets_it(here: Here) -> None:
    """A server answers an ACK that is not exact by a RST with that ACK's number (RFC 9293, 3.10.7.4)."""
    flow, guess = Flow(), 5001 + 2**19
    here.program.send(frame(flow.request(seq=100)))
    slot, _, session = here.only()
    here.program.send(frame(reply(session, SYN | ACK, b"", seq=5000, ack=101)))
    here.program.send(frame(flow.request(ACK, b"", seq=101, ack=5001 + 2**21)))
    assert here.tag(slot).state is SessionState.SYN, "the control"
    here.program.send(frame(flow.request(ACK, b"", seq=101, ack=guess)))
    assert here.tag(slot).state is SessionState.EST
    here.program.send(frame(reply(session, RST, b"", seq=guess)))
    assert here.tag(slot).state is SessionState.CLOSED
    assert here.nat.load(1) == BackendLoad(0, 1)


def test_backend_that_refuses(here: Here) -> None:
    here.program.send(frame(Flow().request(seq=100)))
    slot, _, session = here.only()
    here.program.send(frame(reply(session, RST | ACK, b"", seq=0, ack=99)))
    assert here.tag(slot).state is SessionState.SYN, "it does not acknowledge the SYN"
    here.program.send(frame(reply(session, RST | ACK, b"", seq=0, ack=101)))
    assert here.tag(slot).state is SessionState.CLOSED
    assert TagFlag.RESET in here.tag(slot).flags


def test_datagrams(here: Here) -> None:
    flow = Flow(protocol=packets.UDP)
    here.program.send(frame(flow.request()))
    slot, tag, session = here.only()
    here.program.send(frame(flow.request()))
    assert (tag.state, here.tag(slot).state) == (SessionState.SYN, SessionState.SYN), "one way only"
    here.program.send(frame(reply(session, 0)))
    assert here.tag(slot).state is SessionState.EST


def test_datagram_without_a_checksum_stays_so(here: Here) -> None:
    packet = Flow(protocol=packets.UDP).request()
    packet = packet[:26] + bytes(2) + packet[28:]
    _, after = here.program.send(frame(packet))
    assert after[14 + 26 : 14 + 28] == bytes(2)
    assert after == to_backend(here.only()[2], packet)


@pytest.mark.parametrize("flow", FLOWS, ids=IDS)
def test_sessions_of_the_former_pool_go_on_beside_those_of_the_new_one(here: Here, flow: Flow) -> None:
    """They share the slots, so an endpoint of either pool names a session of one alone."""
    here.program.send(frame(flow.request(seq=100)))
    slot, _, session = here.only()
    pools = {"pool": IPv4Network("10.254.0.0/31"), "pool6": IPv6Network("fd00:fe::/127")}
    here.nat.write_conf(replace(here.conf, **pools))
    outcome = here.program.observe(frame(reply(session, SYN | ACK)))
    assert outcome.verdict == "pass", "the control: without a former pool the answer is for no session here"

    here.nat.write_conf(replace(here.conf, **pools, former=POOL, former6=POOL6))
    answer, more = reply(session, SYN | ACK, seq=5000, ack=101), flow.request(ACK, b"more", seq=101, ack=5001)
    assert here.program.send(frame(answer))[1] == to_client(session, answer)
    assert here.program.send(frame(more))[1] == to_backend(session, more)
    here.program.send(frame(replace(flow, port=41000).request()))
    (made,) = set(here.used()) - {slot}
    fresh = here.sessions.read(made, flow.six)
    assert (fresh.nat, fresh.nat_port) == endpoint(pools["pool6" if flow.six else "pool"], made)
    answer = reply(fresh, SYN | ACK)
    assert here.program.send(frame(answer))[1] == to_client(fresh, answer)
    for one, other in ((session, pools["pool6" if flow.six else "pool"]), (fresh, POOL6 if flow.six else POOL)):
        wrong = replace(one, nat=endpoint(other, slot if one is session else made)[0])
        assert here.program.observe(frame(reply(wrong, ACK))).events[TABLE, Counter.DROP_NAT_FOREIGN] == 1
    assert here.used() == sorted([slot, made])


def test_next_hops_with_and_without_a_tag(here: Here) -> None:
    flow = Flow()
    here.nat.write_hop(2, NatHop(GATEWAY, vlan=5))
    request = flow.request()
    _, after = here.program.send(frame(request))
    session = here.only()[2]
    plain = to_backend(session, request)
    assert after.rstrip(b"\0") == (plain[:12] + bytes.fromhex("81000005") + plain[12:]).rstrip(b"\0")
    answer = reply(session, SYN | ACK)
    tagged = packets.ethernet(packets.vlan(answer, 5, packets.IPV4), dst=HERE, src=ROUTER, ethertype=packets.VLAN)
    _, after = here.program.send(tagged)
    assert after.rstrip(b"\0") == to_client(session, answer).rstrip(b"\0"), "the tag is taken off"


def test_packet_with_options_is_translated_too(here: Here) -> None:
    packet = Flow().request(ip={"options": bytes([7, 4, 4, 0])})
    _, after = here.program.send(frame(packet))
    assert after == to_backend(here.only()[2], packet)


def test_backend_that_is_a_client(here: Here) -> None:
    """A backend calls the VIP and gets itself."""
    ends = {"src": BACKENDS[0], "dst": VIP, "sport": 50000, "dport": 443}
    request = ip_packet(packets.TCP, ends, SYN, b"")
    _, after = here.program.send(frame(request))
    session = here.only()[2]
    assert after == to_backend(session, request)
    answer = reply(session, SYN | ACK)
    assert here.program.send(frame(answer))[1] == to_client(session, answer)
