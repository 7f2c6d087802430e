# SPDX-License-Identifier: Apache-2.0
"""A bpffs and a network namespace of the tests' own, and the real program, run by TEST_RUN.

BPF_PROG_TEST_RUN runs the program on a packet in memory: nothing is attached, but maps, counters and the sockets of
the current network namespace are real.
"""

import contextlib
import os
import shutil
import subprocess
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import packets
from support.bpffs import new_bpffs
from support.counted import counted
from support.nat_node import Here
from support.nat_stage import NatStage, open_nat
from support.netns import new_netns
from support.programs import PROGRAMS
from support.testrun import Runner

from bpf.attach.datapath import DataPath
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.layout.conf import NodeConf
from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN, SLOTS
from bpf.layout.map_spec import MapType
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.layout.uplink import UplinkEntry
from bpf.maps.maps import Maps
from bpf.maps.pinned_map import pack_index

VIP = "10.99.0.1"
ROWS = 4096
KEY = bytes(range(16))
VLANS = (5, 6, 100, 101)
"""Those of the tests' tags."""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def bpffs() -> Iterator[Path]:
    with new_bpffs("bpffs") as mount:
        yield mount


@pytest.fixture
def netns() -> Iterator[None]:
    with new_netns():
        yield


@dataclass(frozen=True)
class Outcome:
    """`events`: what was counted during the run, (slot, counter) -> how often."""

    verdict: str
    packet: bytes
    events: Tally[tuple[int, Counter]]


class Program:
    """The real program and its maps, not attached to anything."""

    VERDICTS = ("aborted", "drop", "pass", "tx", "redirect")

    def __init__(self, fd: int, pin: Path, maps: Maps) -> None:
        self.fd = fd
        self.pin = pin
        self.maps = maps
        self._runner = Runner(fd)
        self._chains: dict[int, tuple[tuple[int, ...], int, bytes | None]] = {}

    def send(self, packet: bytes, repeat: int = 1) -> tuple[str, bytes]:
        """Verdict and packet after the program; `duration_ns` holds the time of one of the rounds."""
        verdict, after = self._runner.run(packet, repeat)
        return self.VERDICTS[verdict], after

    @property
    def duration_ns(self) -> int:
        return self._runner.duration_ns

    def counted(self) -> Tally[tuple[int, Counter]]:
        return counted(self.maps)

    def observe(self, packet: bytes) -> Outcome:
        before = self.counted()
        verdict, after = self.send(packet)
        return Outcome(verdict, after, self.counted() - before)

    def know_node(self, index: int, has_mac: bool = True, **more: Any) -> None:
        """Nodes are 10.0.0.(10 + index) and 2001:db8::(10 + index), with the tag 10 + index and the MAC
        02:00:00:00:00:index. `more`: the other fields of NodeEntry."""
        node_mac = packets.mac(f"02:00:00:00:00:{index:02x}") if has_mac else None
        fields = {"address6": IPv6Address(f"2001:db8::{10 + index:x}"), **more}
        self.maps.nodes.write(index, NodeEntry(IPv4Address(f"10.0.0.{10 + index}"), 10 + index, node_mac, **fields))

    def set_chain(self, slot: int, chain: Sequence[int], grace_until_ns: int = 0, bank: int = 0) -> None:
        """The same chain in every row of a service. What is there already is not written: a swap waits 20 ms for the
        kernel's readers."""
        number = slot + bank * SLOTS
        if self._chains.get(number) == (tuple(chain), grace_until_ns, self._table(number)):
            return
        rows = np.zeros((ROWS, CHAIN), np.uint16)
        rows[:, : len(chain)] = chain
        self.maps.tables.swap(slot, rows, np.full(ROWS, grace_until_ns, np.uint64), bank)
        self._chains[number] = tuple(chain), grace_until_ns, self._table(number)

    def _table(self, number: int) -> bytes | None:
        return self.maps.pinned["rows"].lookup(number.to_bytes(4, "little"))

    def set_row(self, slot: int, row: int, chain: Sequence[int], grace_until_ns: int = 0, bank: int = 0) -> None:
        """Another chain in one row of a table that is in use (the agent only ever swaps whole tables)."""
        self._chains.pop(slot + bank * SLOTS, None)
        cells = np.zeros(CHAIN, np.uint16)
        cells[: len(chain)] = chain
        key = row.to_bytes(4, "little")
        with self._inner("rows", slot + bank * SLOTS) as fd:
            bpf_map.update(fd, key, cells.tobytes())
        with self._inner("grace", slot + bank * SLOTS) as fd:
            bpf_map.update(fd, key, grace_until_ns.to_bytes(8, "little"))

    @contextlib.contextmanager
    def _inner(self, name: str, slot: int) -> Iterator[int]:
        number = self.maps.pinned[name].lookup(slot.to_bytes(4, "little"))
        assert number
        fd = bpf_map.open_map(int.from_bytes(number, "little"))
        try:
            yield fd
        finally:
            os.close(fd)

    def serve(self, slot: int, protocol: Protocol, port: int, vip: str = VIP, up: bool = True, **more: Any) -> None:
        """`more`: the other fields of ServiceEntry."""
        self.maps.services.write(ServiceKey(ip_address(vip), protocol, port), ServiceEntry(slot, up, **more))


@pytest.fixture(scope="module")
def module_netns() -> Iterator[None]:
    with new_netns():
        yield


@pytest.fixture(scope="session")
def data_path(bpffs: Path) -> Iterator[DataPath]:
    """The program is loaded once: the verifier takes longer than most modules' tests."""
    folder = bpffs / "packets"
    path = DataPath.open(folder, "lo", rows=ROWS, cache_dir=PROGRAMS)
    try:
        yield path
    finally:
        path.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def nat_data_path(bpffs: Path) -> Iterator[DataPath]:
    """That of nodes that do NAT, likewise."""
    path = open_nat(bpffs / "nat")
    try:
        yield path
    finally:
        path.close()
        shutil.rmtree(bpffs / "nat")


@pytest.fixture(scope="module")
def nat_program(bpffs: Path, nat_data_path: DataPath, module_netns: None) -> Iterator[Program]:
    """It knows nothing yet."""
    clear(nat_data_path.maps)
    pin = next((bpffs / "nat").glob("program0_*"))
    fd = open_pin(pin)
    assert fd is not None
    try:
        yield Program(fd, pin, nat_data_path.maps)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def node_of_nat(nat_program: Program) -> Here:
    """Node 1 of the tests of NAT by hand."""
    return Here(nat_program)


@pytest.fixture
def here(node_of_nat: Here) -> Here:
    """The same, as at the start."""
    node_of_nat.reset()
    return node_of_nat


@pytest.fixture(scope="module")
def nat_stage(nat_program: Program) -> NatStage:
    """Node 1 of the tests of NAT against references."""
    return NatStage(nat_program.maps, nat_program.fd)


@pytest.fixture(scope="module")
def program(bpffs: Path, data_path: DataPath, module_netns: None) -> Iterator[Program]:
    """This node is number 1 of 8, with both ends of tunnels; nothing is served yet."""
    maps = data_path.maps
    clear(maps)
    maps.uplinks.write(0, UplinkEntry(packets.HERE, 1))
    ends = (IPv4Address("10.0.0.11"), IPv6Address("2001:db8::b"))
    maps.conf.write(NodeConf(1, 11, KEY, 1_000_000_000, 4_000_000_000, *ends))
    maps.vlans.write(VLANS)
    maps.node_prefixes.write([ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")])
    pin = next((bpffs / "packets").glob("program0_*"))
    fd = open_pin(pin)
    assert fd is not None
    real = Program(fd, pin, maps)
    for index in range(1, 9):
        real.know_node(index)
    try:
        yield real
    finally:
        os.close(fd)


def clear(maps: Maps) -> None:
    """Empty all maps but the ring buffer, which its reader empties, and the records of sessions."""
    if maps.sessions:
        maps.sessions.tags[:] = 0
    for name, one in maps.pinned.items():
        if name in ("session_tags", "sessions4", "sessions6"):
            continue
        match one.spec.type:
            case MapType.HASH | MapType.LPM_TRIE:
                for key in one.read_keys():
                    one.delete(key)
            case MapType.ARRAY | MapType.PERCPU_ARRAY:
                for index in range(one.spec.entries):
                    one.clear_entry(index)
            case MapType.ARRAY_OF_MAPS:
                for index in range(one.spec.entries):
                    if one.lookup(pack_index(index)):
                        one.delete(pack_index(index))


@pytest.fixture(scope="session")
def make_program() -> type[Program]:
    """For programs other than that of `program`."""
    return Program


@pytest.fixture(scope="session")
def runner() -> Callable[..., None]:
    return run
