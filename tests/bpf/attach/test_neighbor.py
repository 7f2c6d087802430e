# SPDX-License-Identifier: Apache-2.0
"""Neighbor discovery for a VIP that is on the interface itself: the program leaves it to the kernel, which answers.

this namespace:  wire ──── node     (a veth; the program sits on `node`, which has the VIP)
"""

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from support.counted import counted
from support.netns import add_address6
from support.programs import PROGRAMS
from support.waiting import wait_for

from bpf.attach.datapath import DataPath
from bpf.layout.conf import NodeConf
from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey

pytestmark = pytest.mark.lab

ROWS = 4096
VIP = "2001:db8:99::1"
NODE, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:fe"
DEADLINE_S = 60


@pytest.fixture
def wire(netns: None, runner: Callable[..., None]) -> Iterator[socket.socket]:
    runner("ip", "link", "add", "node", "address", NODE, "type", "veth", "peer", "name", "wire")
    for end in ("node", "wire"):
        runner("ip", "link", "set", end, "up")
    add_address6(VIP, "node")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)) as sock:
        sock.bind(("wire", 0x86DD))
        sock.settimeout(0.2)
        yield sock


def test_unicast_solicitation_from_a_link_local_address_is_answered(
    bpffs: Path, tmp_path: Path, wire: socket.socket
) -> None:
    with closing(DataPath.open(bpffs / tmp_path.name, "node", rows=ROWS, cache_dir=PROGRAMS)) as path:
        maps = path.maps
        maps.conf.write(NodeConf(1, 11, bytes(16)))
        maps.nodes.write(1, NodeEntry(IPv4Address("10.0.0.11"), 11, bytes.fromhex(NODE.replace(":", ""))))
        maps.tables.swap(1, np.zeros((ROWS, CHAIN), np.uint16), np.zeros(ROWS, np.uint64))
        maps.services.write(ServiceKey(IPv6Address(VIP), Protocol.TCP, 7000), ServiceEntry(1, up=True))
        path.attach()
        start = IPv6(src="fe80::fe", dst=VIP, hlim=255)
        ask = start / ICMPv6ND_NS(tgt=VIP) / ICMPv6NDOptSrcLLAddr(lladdr=ROUTER)
        deadline = time.monotonic() + DEADLINE_S
        while not answered(wire, ask):
            assert time.monotonic() < deadline, "no neighbor advertisement"
        assert not counted(maps)[0, Counter.DROP_MARTIAN]
        send(wire, start / ICMPv6EchoRequest())
        wait_for(lambda: counted(maps)[0, Counter.DROP_MARTIAN] == 1, "the control: an echo request to be dropped")
        path.detach()
    shutil.rmtree(bpffs / tmp_path.name, ignore_errors=True)


def send(wire: socket.socket, packet: Packet) -> None:
    wire.send(bytes(Ether(dst=NODE, src=ROUTER) / packet))


def answered(wire: socket.socket, packet: Packet) -> bool:
    """Send a packet to the node; return whether it advertises the VIP to the sender."""
    send(wire, packet)
    try:
        while True:
            answer = Ether(wire.recv(2048))
            if answer.dst == ROUTER and ICMPv6ND_NA in answer:
                return bool(answer[ICMPv6ND_NA].tgt == VIP)
    except TimeoutError:
        return False
