# SPDX-License-Identifier: Apache-2.0
"""1,000 changes of the program and of the tables while packets flow: none is lost, none goes to another node.

this namespace:  wire ──── node     (a veth; the program sits on `node`, packets go into `wire` and come back out of it)

Two programs of the same build alternate on the link. For each service two tables alternate, whose rows have the same
owners and differ in everything else: a row that is half written, or empty for a moment, would misdirect or lose a
packet. A change mostly waits for the kernel's grace periods, so the program and the services change in parallel.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from support.oracle.flow_hash import flow_hash
from support.oracle.headers import Flow
from support.programs import PROGRAMS

from bpf.attach.datapath import DataPath
from bpf.kernel.link import replace_program
from bpf.kernel.pin import open_pin
from bpf.layout.conf import NodeConf
from bpf.layout.limits import CHAIN
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("veth")]

CHANGES = 1_000
ROWS = 4096
PORTS = (7000, 7001, 7002, 7003)
FLOWS = 64
IN_FLIGHT = 64
VIP, CLIENT = IPv4Address("10.99.0.1"), IPv4Address("10.1.0.2")
NODE_MAC = "02:00:00:00:00:01"
SECRET = bytes(range(16))


@pytest.fixture
def veth(proof_netns: None) -> None:
    add = ["ip", "link", "add", "node", "address", NODE_MAC, "type", "veth", "peer", "name", "wire"]
    subprocess.run(add, check=True)
    for end in ("node", "wire"):
        Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")  # no packets but ours
        subprocess.run(["ip", "link", "set", end, "up"], check=True)
    subprocess.run(["ethtool", "-K", "wire", "gro", "on"], check=True, capture_output=True)


@pytest.fixture
def pins(proof_bpffs: Path) -> Iterator[Path]:
    folder = proof_bpffs / "live"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def owner(row: int) -> int:
    return 2 + row % 2


def table(later: tuple[int, ...]) -> np.ndarray:
    """Return rows with their owners first, then nodes that differ between the tables."""
    rows = np.zeros((ROWS, CHAIN), np.uint16)
    rows[:, 0] = [owner(row) for row in range(ROWS)]
    rows[:, 1 : 1 + len(later)] = later
    return rows


class Traffic:
    """Sends numbered packets of many flows and records which came back, and to which node they were forwarded."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.bind(("wire", 0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self._socket.settimeout(0.5)
        self._flows = [self._flow(40_000 + number, PORTS[number % len(PORTS)]) for number in range(FLOWS)]
        self._room = threading.Semaphore(IN_FLIGHT)
        self._stop, self._all_sent = threading.Event(), threading.Event()
        self._sender, self._receiver = (threading.Thread(target=work) for work in (self._send, self._receive))
        self.sent = 0
        self.came: dict[int, int] = {}
        self.misdirected: list[bytes] = []

    @staticmethod
    def _flow(port: int, vip_port: int) -> tuple[bytes, bytes, bytes]:
        """Return a flow's packet before and after the sequence number, and the MAC of its owner."""
        whole = bytes(
            Ether(dst=NODE_MAC, src="02:00:00:00:00:fe")
            / IP(src=str(CLIENT), dst=str(VIP), flags="DF")
            / TCP(sport=port, dport=vip_port, flags="A")
        )
        row = flow_hash(SECRET, Flow(6, CLIENT, port, VIP, vip_port)) % ROWS
        return whole[:38], whole[42:], bytes([2, 0, 0, 0, 0, owner(row)])

    def _send(self) -> None:
        while not self._stop.is_set():
            if not self._room.acquire(timeout=60):
                return  # they do not come back: the test will fail
            before, behind, _ = self._flows[self.sent % FLOWS]
            self._socket.send(before + self.sent.to_bytes(4, "big") + behind)
            self.sent += 1

    def _receive(self) -> None:
        quiet = 0
        while not (self._all_sent.is_set() and len(self.came) >= self.sent):
            try:
                frame = self._socket.recv(2048)
            except TimeoutError:
                quiet += self._all_sent.is_set()
                if quiet > 60:  # half a minute: what has not come by then is lost
                    return
                continue
            number = int.from_bytes(frame[38:42], "big")
            self.came[number] = self.came.get(number, 0) + 1
            if frame[:6] != self._flows[number % FLOWS][2]:
                self.misdirected.append(frame)
            self._room.release()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more were sent, or the sender has given up."""
        target = self.sent + count
        while self.sent < target and self._sender.is_alive():
            time.sleep(0.0005)

    def __enter__(self) -> "Traffic":
        for thread in (self._sender, self._receiver):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sender.join()
        self._all_sent.set()
        self._receiver.join()
        self._socket.close()


def test_no_packet_is_lost_or_misdirected(pins: Path) -> None:
    with closing(DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS)) as path:
        maps = path.maps
        maps.conf.write(NodeConf(1, 11, SECRET))
        for index in range(1, 8):
            mac = bytes([2, 0, 0, 0, 0, index])
            maps.nodes.write(index, NodeEntry(IPv4Address(f"10.0.0.{10 + index}"), 10 + index, mac))
        variants = table((4, 5)), table((6, 7, 3))
        no_grace = np.zeros(ROWS, np.uint64)
        for slot, port in enumerate(PORTS, 1):
            maps.tables.swap(slot, variants[0], no_grace)
            maps.services.write(ServiceKey(VIP, Protocol.TCP, port), ServiceEntry(slot, up=True))
        path.attach()
        programs = [open_pin(pin := next(pins.glob("program0_*")))]
        pin.unlink()
        DataPath.open(pins, "node", rows=ROWS, cache_dir=PROGRAMS).close()
        programs.append(open_pin(next(pins.glob("program0_*"))))
        link = open_pin(pins / "link0")
        assert link is not None
        assert None not in programs
        began: list[int] = []
        with Traffic() as traffic, ThreadPoolExecutor() as pool:

            def swap_programs() -> None:
                for number in range(CHANGES):
                    replace_program(link, programs[(number + 1) % 2] or 0)
                    began.append(traffic.sent)
                    traffic.wait_for_more(11)

            def swap_tables(slot: int) -> None:
                for number in range(CHANGES // len(PORTS)):
                    maps.tables.swap(slot, variants[number % 2], no_grace)

            changes = [pool.submit(swap_programs), *(pool.submit(swap_tables, slot) for slot in range(1, 5))]
            for change in changes:
                change.result()
        counted = [maps.counters.read()[slot] for slot in range(1, 5)]
        for fd in (link, *programs):
            os.close(fd or 0)

    assert traffic.misdirected == []
    assert sorted(set(range(traffic.sent)) - traffic.came.keys()) == []
    assert {number: times for number, times in traffic.came.items() if times != 1} == {}
    assert sum(counters["rx"] for counters in counted) == traffic.sent
    assert sum(counters["forward_first"] for counters in counted) == traffic.sent
    # Packets came during all changes; otherwise the test would prove nothing.
    assert traffic.sent > 10 * CHANGES
    assert len(set(began)) > CHANGES * 0.9
