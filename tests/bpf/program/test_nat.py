# SPDX-License-Identifier: Apache-2.0
"""NAT: the real program, its sessions in real maps. The bytes are those of bpf/reference/translation.py.

client 10.1.0.2 ── router ── node 1, VIP 10.99.0.1 ── gateway ── backends 10.9.0.11 and .12, pool 10.255.0.0/31
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import packets
from support.packets import ACK, FIN, HERE, ROUTER, RST, SYN
from support.programs import PROGRAMS

from bpf.attach.datapath import DataPath
from bpf.kernel.pin import open_pin
from bpf.layout.conf import NodeConf, OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import (
    BackendEntry,
    BackendLoad,
    Balance,
    Choice,
    NatConf,
    NatHop,
    NatServiceEntry,
    endpoint,
    row_of_slot,
    slot_of,
)
from bpf.layout.node import NodeEntry
from bpf.layout.service import Affinity, Forward, Protocol, ServiceEntry, ServiceKey
from bpf.layout.session import OWNER_WAYS, WAYS, Session, SessionState, Tag, TagFlag
from bpf.layout.uplink import UplinkEntry
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_map import SessionMap, now_tick
from bpf.reference.flow_hash import flow_hash
from bpf.reference.translation import Ends, translate

ROWS, KEY, OTHER_KEY = 4096, bytes(range(16)), bytes(range(1, 17))
SESSIONS = 1 << 16
POOL, POOL6 = IPv4Network("10.255.0.0/31"), IPv6Network("fd00:ff::/127")
VIP, VIP6 = "10.99.0.1", "2001:db8:99::1"
CLIENT, CLIENT6 = "10.1.0.2", "2001:db8:64::2"
WEB, TABLE = 3, 9
GATEWAY, CLIENT_GATEWAY = packets.mac("02:00:00:00:00:f1"), packets.mac("02:00:00:00:00:f2")
BACKENDS = ("10.9.0.11", "10.9.0.12")
BACKENDS6 = ("2001:db8:9::11", "2001:db8:9::12")
FOREVER = 2**63


class Here:
    """The program and its maps: node 1, which owns every row of NAT unless a test changes that."""

    def __init__(self, program: Any) -> None:
        self.program = program
        assert program.maps.nat
        assert program.maps.sessions
        self.nat: NatMaps = program.maps.nat
        self.sessions: SessionMap = program.maps.sessions
        self.conf = NatConf(SESSIONS, TABLE, POOL, POOL6, Forward.L2, hop4=1, hop6=1)
        self.node = NodeConf(1, 11, KEY, 1_000_000_000, 4_000_000_000, IPv4Address("10.0.0.11"))

    def reset(self) -> None:
        """Everything as at the start, without sessions."""
        self.sessions.tags[:] = 0
        self.nat.loads[:] = 0
        self.nat.pulls[:] = 0
        self.program.maps.conf.write(self.node)
        self.nat.write_conf(self.conf)
        self.nat.write_hop(1, NatHop(CLIENT_GATEWAY))
        self.nat.write_hop(2, NatHop(GATEWAY))
        for index, address in enumerate((*BACKENDS, *BACKENDS6), 1):
            self.nat.write_backend(index, BackendEntry(ip_address(address), 8443, 2))
        self.balance(1)
        self.program.set_chain(TABLE, [1])

    def balance(self, *backends: int, by: Balance = Balance.ROUND_ROBIN, slot: int = WEB, **more: Any) -> None:
        self.nat.write_service(slot, NatServiceEntry(by, choices=[Choice(index) for index in backends], **more))
        self.nat.write_service(slot + 1, NatServiceEntry(by, choices=[Choice(index + 2) for index in backends], **more))

    def used(self) -> list[int]:
        return [int(slot) for slot in np.flatnonzero(self.sessions.tags)]

    def tag(self, slot: int) -> Tag:
        return Tag.unpack(int(self.sessions.tags[slot]))

    def only(self) -> tuple[int, Tag, Session]:
        """Return the only session."""
        (slot,) = self.used()
        tag = self.tag(slot)
        return slot, tag, self.sessions.read(slot, TagFlag.IPV6 in tag.flags)


@dataclass(frozen=True)
class Flow:
    """A client's flow to the service."""

    port: int = 40000
    protocol: int = packets.TCP
    six: bool = False

    @property
    def ends(self) -> dict[str, Any]:
        client, vip = (CLIENT6, VIP6) if self.six else (CLIENT, VIP)
        return {"src": client, "dst": vip}

    def row(self, key: bytes = KEY) -> int:
        client, vip = ip_address(self.ends["src"]), ip_address(self.ends["dst"])
        return flow_hash(key, client, self.port, vip, 443) & 4095

    def request(self, flags: int = SYN, payload: bytes = b"?", **more: Any) -> bytes:
        """Return the IP packet."""
        return ip_packet(self.protocol, {**self.ends, "sport": self.port, "dport": 443}, flags, payload, **more)


def ip_packet(protocol: int, ends: dict[str, Any], flags: int, payload: bytes, ip: Any = None, **more: Any) -> bytes:
    addresses = {"src": ends["src"], "dst": ends["dst"]}
    if protocol == packets.TCP:
        inner = packets.tcp(payload, flags=flags, **ends, **more)
    else:
        inner = packets.udp(payload, **ends)
    if ":" in ends["dst"]:
        return packets.ipv6(inner, protocol=protocol, **addresses, **(ip or {}))
    return packets.ipv4(inner, protocol=protocol, **addresses, **(ip or {}))


def reply(session: Session, flags: int, payload: bytes = b"!", **more: Any) -> bytes:
    """Return an IP packet of the backend to the session's NAT endpoint."""
    ends = {"src": str(session.backend), "dst": str(session.nat)}
    ports = {"sport": session.backend_port, "dport": session.nat_port}
    return ip_packet(session.protocol, {**ends, **ports}, flags, payload, **more)


def frame(packet: bytes, source: bytes = ROUTER) -> bytes:
    kind = packets.IPV4 if packet[0] >> 4 == 4 else packets.IPV6
    return packets.ethernet(packet, dst=HERE, src=source, ethertype=kind)


def sent(packet: bytes, to: bytes) -> bytes:
    kind = packets.IPV4 if packet[0] >> 4 == 4 else packets.IPV6
    return packets.ethernet(packet, dst=to, src=HERE, ethertype=kind)


def to_backend(session: Session, packet: bytes) -> bytes:
    ends = Ends(session.nat, session.nat_port, session.backend, session.backend_port)
    return sent(translate(packet, ends), GATEWAY)


def to_client(session: Session, packet: bytes) -> bytes:
    ends = Ends(session.vip, session.vip_port, session.client, session.client_port)
    return sent(translate(packet, ends), CLIENT_GATEWAY)


@pytest.fixture(scope="module")
def opened(bpffs: Path, module_netns: None, make_program: Callable[..., Any]) -> Iterator[Here]:
    folder = bpffs / "nat"
    path = DataPath.open(folder, "lo", rows=ROWS, cache_dir=PROGRAMS, nat=NatShape(SESSIONS))
    pin = next(folder.glob("program0_*"))
    fd = open_pin(pin)
    assert fd is not None
    maps = path.maps
    program = make_program(fd, pin, maps)
    maps.uplinks.write(0, UplinkEntry(HERE, 1))
    maps.vlans.write((5,))
    maps.node_prefixes.write([ip_network("10.0.0.0/24")])
    here = Here(program)
    maps.conf.write(here.node)
    for index in range(1, 5):
        maps.nodes.write(
            index,
            NodeEntry(IPv4Address(f"10.0.0.{10 + index}"), 10 + index, packets.mac(f"02:00:00:00:00:{index:02x}")),
        )
    for protocol in Protocol:
        maps.services.write(ServiceKey(IPv4Address(VIP), protocol, 443), ServiceEntry(WEB, True, nat=True))
        maps.services.write(ServiceKey(IPv6Address(VIP6), protocol, 443), ServiceEntry(WEB + 1, True, nat=True))
    try:
        yield here
    finally:
        os.close(fd)
        path.close()
        shutil.rmtree(folder)


@pytest.fixture
def here(opened: Here) -> Here:
    opened.reset()
    return opened


FLOWS = [Flow(), Flow(protocol=packets.UDP), Flow(six=True), Flow(protocol=packets.UDP, six=True)]
IDS = ["TCP", "UDP", "TCP over IPv6", "UDP over IPv6"]


def establish(here: Here, flow: Flow, hop: bytes = ROUTER) -> tuple[int, Session]:
    """Make a session and bring it to EST; return its slot and record."""
    before = set(here.used())
    here.program.send(frame(flow.request(seq=100), hop))
    (slot,) = set(here.used()) - before
    session = here.sessions.read(slot, flow.six)
    here.program.send(frame(reply(session, SYN | ACK, b"", seq=5000, ack=101)))
    here.program.send(frame(flow.request(ACK, seq=101, ack=5001), hop))
    assert here.tag(slot).state is SessionState.EST
    return slot, session


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
    assert row_of_slot(SESSIONS, slot) == flow.row()
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


def test_new_connection_of_the_same_ports_gets_another_endpoint(here: Here) -> None:
    flow = Flow()
    slot, session = establish(here, flow)
    here.program.send(frame(flow.request(ACK | FIN, seq=102, ack=5001)))
    assert here.tag(slot).state is SessionState.FIN
    syn = flow.request(seq=900)
    _, after = here.program.send(frame(syn))
    (fresh,) = set(here.used()) - {slot}
    assert after == to_backend(here.sessions.read(fresh), syn)
    assert here.tag(slot).state is SessionState.CLOSED
    assert not here.tag(slot).fingerprint & 1, "that of no flow, so that it hides no other session of its bucket"
    assert here.nat.load(1) == BackendLoad(1, 2)
    late = reply(session, ACK, seq=5001, ack=103)
    assert here.program.send(frame(late))[1] == to_client(session, late), "the old one's last packets still pass"


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
    strangers = {
        "another backend": replace(session, backend=IPv4Address("10.9.0.12")),
        "another port of it": replace(session, backend_port=1),
        "another protocol": replace(session, protocol=packets.UDP),
        "another endpoint": replace(session, nat_port=session.nat_port ^ 1),
        "a port below the pool's": replace(session, nat_port=session.nat_port - 32768),
    }
    for what, other in strangers.items():
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


def test_balance_in_turn(here: Here) -> None:
    here.balance(1, 2, 2)
    for port in range(6):
        here.program.send(frame(Flow(41000 + port).request()))
    assert [here.nat.load(index).chosen for index in (1, 2)] == [2, 4]


def test_balance_by_the_least_connections(here: Here) -> None:
    here.nat.write_service(WEB, NatServiceEntry(Balance.LEAST_CONNECTIONS, choices=(Choice(1, 1), Choice(2, 3))))
    for port in range(8):
        here.program.send(frame(Flow(41000 + port).request()))
    assert [here.nat.load(index).active for index in (1, 2)] == [2, 6]


def test_balance_by_the_clients_address(here: Here) -> None:
    here.balance(1, 2, by=Balance.HASH, affinity=Affinity.TWO_TUPLE)
    for port in range(8):
        here.program.send(frame(Flow(41000 + port).request()))
    assert sorted(here.nat.load(index).active for index in (1, 2)) == [0, 8], "one client, one backend"
    here.reset()
    here.balance(1, 2, by=Balance.HASH)
    for port in range(64):
        here.program.send(frame(Flow(41000 + port).request()))
    assert min(here.nat.load(index).active for index in (1, 2)) > 16


def test_no_backend(here: Here) -> None:
    here.balance()
    outcome = here.program.observe(frame(Flow().request()))
    assert (outcome.verdict, outcome.events[WEB, Counter.DROP_NAT_NO_BACKEND]) == ("drop", 1)
    assert here.used() == []


def test_next_hop_without_a_mac(here: Here) -> None:
    here.nat.write_hop(2, NatHop(None))
    assert here.program.observe(frame(Flow().request())).events[WEB, Counter.DROP_NAT_NO_MAC] == 1


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_last_hop(here: Here, six: bool) -> None:
    packet = Flow(six=six).request(ip={"hops": 1} if six else {"ttl": 1})
    assert here.program.observe(frame(packet)).events[WEB + six, Counter.DROP_NAT_TTL] == 1


def test_too_big_for_the_next_hop(here: Here) -> None:
    flow = Flow()
    establish(here, flow)
    here.nat.write_hop(2, NatHop(GATEWAY, mtu=600))
    outcome = here.program.observe(frame(flow.request(ACK, bytes(700), seq=101, ack=5001)))
    assert (outcome.verdict, outcome.events[WEB, Counter.REPLY_TOO_BIG]) == ("tx", 1)
    assert outcome.packet[14 + 20 : 14 + 22] == bytes([3, 4])
    assert int.from_bytes(outcome.packet[14 + 26 : 14 + 28], "big") == 600


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


def test_bucket_full_of_half_open_sessions(here: Here) -> None:
    """Half of a bucket, and no more; after a few seconds they make room for each other."""
    row, flows = Flow().row(), []
    flows = [flow for flow in map(Flow, range(1024, 65535)) if flow.row() == row][:12]
    assert len(flows) >= 9, "a row has 16 of 65,536 ports on average, and the key of the hash is fixed"
    outcomes = [here.program.observe(frame(flow.request())) for flow in flows]
    assert len(here.used()) == 8, "both buckets of the row are half full"
    assert outcomes[-1].events[WEB, Counter.DROP_NAT_FULL] == 1
    for slot in here.used():
        tag = here.tag(slot)
        here.sessions.tags[slot] = replace(tag, stamp=tag.stamp - 6).pack()
    assert here.program.send(frame(flows[-1].request()))[0] == "tx"
    assert len(here.used()) == 8
    assert here.nat.load(1).active == 8


def test_established_session_never_makes_room(here: Here) -> None:
    """A row whose ways are all in use, however old."""
    row = Flow().row()
    size = SESSIONS // 4096
    tag = Tag(0x7FFF, SessionState.EST, TagFlag(0), 1)
    here.sessions.tags[row * size : (row + 1) * size] = tag.pack()
    assert here.program.observe(frame(Flow().request())).events[WEB, Counter.DROP_NAT_FULL] == 1
    for at, (state, flags, age, free) in enumerate(
        [
            (SessionState.CLOSED, TagFlag(0), 3, True),
            (SessionState.CLOSED, TagFlag.CLOSED_BY_BACKEND, 3, False),
            (SessionState.CLOSED, TagFlag.CLOSED_BY_BACKEND, 57, True),
            (SessionState.CLOSED, TagFlag(0), 0, False),
            (SessionState.FIN, TagFlag(0), 10_000, False),
            (SessionState.BUSY, TagFlag(0), 6, True),
        ]
    ):
        for slot in (row * size, row * size + WAYS):
            here.sessions.tags[slot] = Tag(0x7FFD, state, flags, now_tick() - age).pack()
        verdict, _ = here.program.send(frame(Flow().request()))
        assert (verdict == "tx") == free, (at, state, flags, age)
        here.sessions.tags[row * size : (row + 1) * size] = tag.pack()


def test_owner_takes_a_way_of_the_others_before_it_refuses(here: Here) -> None:
    row, size = Flow().row(), SESSIONS // 4096
    used = Tag(0x7FFF, SessionState.EST, TagFlag(0), 1).pack()
    for way in range(OWNER_WAYS):
        here.sessions.tags[row * size + way : (row + 1) * size : WAYS] = used
    assert here.program.send(frame(Flow().request()))[0] == "tx"
    (slot,) = (slot for slot in here.used() if here.tag(slot).state is SessionState.SYN)
    assert slot // size == row
    assert slot % WAYS >= OWNER_WAYS


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
    assert row_of_slot(SESSIONS, slot) == flow.row(KEY) != flow.row(OTHER_KEY)
    for packet, expected in (
        (flow.request(ACK, seq=101, ack=5001), to_backend),
        (reply(session, ACK, seq=5001, ack=101), to_client),
    ):
        assert here.program.send(frame(packet))[1] == expected(session, packet)
    fresh = Flow(41000)
    here.program.send(frame(fresh.request()))
    (made,) = set(here.used()) - {slot}
    assert row_of_slot(SESSIONS, made) == fresh.row(OTHER_KEY)


def test_backend_that_is_a_client(here: Here) -> None:
    """A backend calls the VIP and gets itself."""
    ends = {"src": BACKENDS[0], "dst": VIP, "sport": 50000, "dport": 443}
    request = ip_packet(packets.TCP, ends, SYN, b"")
    _, after = here.program.send(frame(request))
    session = here.only()[2]
    assert after == to_backend(session, request)
    answer = reply(session, SYN | ACK)
    assert here.program.send(frame(answer))[1] == to_client(session, answer)


def test_slot_of_an_endpoint() -> None:
    assert slot_of(POOL, IPv4Address("10.255.0.1"), 65535) == SESSIONS - 1
    with contextlib.suppress(IndexError):
        endpoint(POOL, SESSIONS)
        pytest.fail("beyond the pool")
