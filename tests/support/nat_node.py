# SPDX-License-Identifier: Apache-2.0
"""Node 1 of a cluster that does NAT, its sessions in real maps, and the packets of clients and backends.

    client 10.1.0.2 ── router ── node 1, VIP 10.99.0.1 ── gateway ── backends 10.9.0.11 and .12, pool 10.255.0.0/31

The bytes that leave are those of bpf/reference/translation.py.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import numpy as np
from support import packets
from support.nat_stage import SESSIONS
from support.packets import ACK, HERE, ROUTER, SYN

from bpf.layout.conf import NodeConf
from bpf.layout.nat import NatConf
from bpf.layout.nat_backend import BackendEntry, Balance, Choice, NatHop, NatServiceEntry
from bpf.layout.service import Forward, Protocol, ServiceEntry, ServiceKey
from bpf.layout.session import Session, SessionState, Tag, TagFlag
from bpf.layout.uplink import UplinkEntry
from bpf.maps.nat_maps import NatMaps
from bpf.maps.session_map import SessionMap
from bpf.reference.flow_hash import flow_hash
from bpf.reference.translation import Ends, translate

KEY, OTHER_KEY = bytes(range(16)), bytes(range(1, 17))
POOL, POOL6 = IPv4Network("10.255.0.0/31"), IPv6Network("fd00:ff::/127")
VIP, VIP6 = "10.99.0.1", "2001:db8:99::1"
CLIENT, CLIENT6 = "10.1.0.2", "2001:db8:64::2"
ADDRESSES = [(ip_address(CLIENT), ip_address(VIP)), (ip_address(CLIENT6), ip_address(VIP6))]
"""Client and VIP of a flow over IPv4 and over IPv6."""
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
        self._write_world()

    def _write_world(self) -> None:
        maps = self.program.maps
        maps.uplinks.write(0, UplinkEntry(HERE, 1))
        maps.vlans.write((5,))
        maps.node_prefixes.write([ip_network("10.0.0.0/24")])
        maps.conf.write(self.node)
        for index in range(1, 5):
            self.program.know_node(index)
        for protocol in Protocol:
            maps.services.write(ServiceKey(IPv4Address(VIP), protocol, 443), ServiceEntry(WEB, True, nat=True))
            maps.services.write(ServiceKey(IPv6Address(VIP6), protocol, 443), ServiceEntry(WEB + 1, True, nat=True))

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
        client, vip = ADDRESSES[self.six]
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
