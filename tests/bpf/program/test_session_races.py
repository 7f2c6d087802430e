# SPDX-License-Identifier: Apache-2.0
"""Two CPUs make sessions in the same buckets while the agent's code frees and closes them: none is double, none lost.

Each CPU sends the SYNs of its own clients, whose flows share a few rows. What the program counts, what the agent's code
did and what is left in the slots must add up.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import numpy as np
import pytest
from support import packets
from support.packets import HERE, ROUTER
from support.programs import PROGRAMS
from support.testrun import Runner

from agent.connections.flow_hash_array import flow_hashes
from agent.sessions.session_table import SessionTable
from agent.sessions.tag_array import are_live, states_of
from bpf.attach.datapath import DataPath
from bpf.kernel.pin import open_pin
from bpf.layout.conf import NodeConf
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NAT_ROWS, NatConf
from bpf.layout.nat_backend import BackendEntry, Balance, Choice, NatHop, NatServiceEntry
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.layout.session import WAYS, SessionState
from bpf.layout.uplink import UplinkEntry
from bpf.maps.maps import Maps
from bpf.maps.session_map import now_tick

KEY, SLOTS = bytes(range(16)), 1 << 16
VIP, PORT = IPv4Address("10.99.0.1"), 443
SERVICE, TABLE = 1, 2
BACKENDS = {1: IPv4Address("10.9.0.11"), 2: IPv4Address("10.9.0.12"), 3: IPv4Address("10.9.0.13")}
ROWS = 64
"""In which all flows are: 1,024 slots."""
DROPPED, SENT_ON = 1, (3, 4)
"""XDP's verdicts."""


@pytest.fixture(scope="module")
def world(bpffs: Path, module_netns: None) -> Iterator[tuple[Maps, int]]:
    """This node is alone, with three backends; yields its maps and program."""
    folder = bpffs / "races"
    path = DataPath.open(folder, "lo", rows=NAT_ROWS, cache_dir=PROGRAMS, nat=NatShape(SLOTS))
    maps = path.maps
    assert maps.nat
    maps.uplinks.write(0, UplinkEntry(HERE, 1))
    maps.conf.write(NodeConf(1, 11, KEY, 1_000_000_000, 4_000_000_000, IPv4Address("10.0.0.11")))
    maps.nodes.write(1, NodeEntry(IPv4Address("10.0.0.11"), 11, None))
    rows = np.zeros((NAT_ROWS, CHAIN), np.uint16)
    rows[:, 0] = 1
    maps.tables.swap(TABLE, rows, np.zeros(NAT_ROWS, np.uint64))
    maps.services.write(ServiceKey(VIP, Protocol.TCP, PORT), ServiceEntry(SERVICE, up=True, nat=True))
    for index, address in BACKENDS.items():
        maps.nat.write_hop(index, NatHop(b"\2\0\0\0\0" + bytes([index])))
        maps.nat.write_backend(index, BackendEntry(address, 8443, index))
    maps.nat.write_service(SERVICE, NatServiceEntry(Balance.ROUND_ROBIN, choices=[Choice(index) for index in BACKENDS]))
    maps.nat.write_conf(NatConf(SLOTS, TABLE, ip_network("10.255.0.0/31"), hop4=1))  # type: ignore[arg-type]
    fd = open_pin(next(folder.glob("program0_*")))
    assert fd is not None
    yield maps, fd
    os.close(fd)
    path.close()
    shutil.rmtree(folder)


def clients(count: int, rows: int, seed: int) -> np.ndarray:
    """Return so many client addresses, as words of a packet, whose flows from port 41000 are in the first rows."""
    found = np.zeros(0, np.uint32)
    chooser = np.random.default_rng(seed)
    ports = np.uint32(int.from_bytes((41_000).to_bytes(2, "big"), "little"))
    ports |= np.uint32(int.from_bytes(PORT.to_bytes(2, "big"), "little") << 16)
    vip = np.frombuffer(VIP.packed, np.uint32)
    while len(found) < count:
        words = chooser.integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
        words = words[(words & 0xFF >= 11) & (words & 0xFF < 100)]
        of = np.repeat(ports, len(words))
        hashes = flow_hashes(KEY, words.reshape(-1, 1), np.repeat(vip, len(words)).reshape(-1, 1), of)
        found = np.unique(np.concatenate((found, words[(hashes & (NAT_ROWS - 1)) < rows])))
    return found[:count]


def sent_on_cpu(fd: int, cpu: int, words: np.ndarray) -> list[int]:
    """Send a SYN of each client on a CPU, in a process of its own; return how often there was each verdict."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {cpu})
        os.write(writing, struct.pack("5Q", *send(fd, words)))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        verdicts = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return list(struct.unpack("5Q", verdicts))


def send(fd: int, words: np.ndarray) -> list[int]:
    """Send a SYN of each client."""
    runner, verdicts = Runner(fd), [0] * 5
    segment = packets.tcp(sport=41_000, dport=PORT, src="192.0.2.7", dst=str(VIP))
    ip = packets.ipv4(segment, protocol=packets.TCP, src="192.0.2.7", dst=str(VIP))
    frame = packets.ethernet(ip, dst=HERE, src=ROUTER)
    head, tail, data = frame[:26], frame[30:], words.tobytes()
    for at in range(0, len(data), 4):
        verdicts[runner.run(head + data[at : at + 4] + tail)[0]] += 1
    return verdicts


@pytest.mark.slow
def test_what_two_cpus_and_the_agent_do_adds_up(world: tuple[Maps, int], pytestconfig: pytest.Config) -> None:
    """`make proof` sends a million SYNs: of a hundred thousand sessions a wrong claim of a slot loses a few."""
    count = pytestconfig.getoption("--raced-sessions")
    maps, fd = world
    assert maps.nat
    assert maps.sessions
    maps.sessions.tags[:] = 0
    maps.nat.loads[:] = 0
    table, chooser = SessionTable(maps.sessions, maps.nat), np.random.default_rng(2)
    words = chooser.permutation(clients(count, ROWS, 1))
    slots = np.arange(SLOTS)
    slots = slots[slots // WAYS % NAT_ROWS < ROWS]
    ended = 0
    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(sent_on_cpu, fd, cpu, words[cpu::2]) for cpu in range(2)]
        while not all(one.done() for one in sending):
            tags = table.tags[slots]
            live, closed = np.flatnonzero(are_live(tags)), np.flatnonzero(states_of(tags) == SessionState.CLOSED)
            live = chooser.permutation(live)
            few = len(live) // 10
            ended += table.close(slots[live[:few]], tags[live[:few]], now_tick())
            ended += table.free(slots[live[few:]], tags[live[few:]])
            table.free(slots[closed], tags[closed])
        verdicts = [one.result() for one in sending]
    sent = sum(one[verdict] for one in verdicts for verdict in SENT_ON)
    left = np.flatnonzero(are_live(table.tags))
    records = maps.sessions.sessions4[left]
    assert int(maps.nat.loads[:, 1].sum()) == sent > count / 10
    assert ended + len(left) == sent, "each session was ended once, or is left"
    assert maps.nat.loads[:4, 0].tolist() == np.bincount(records["backend_index"], minlength=4).tolist()
    assert len(np.unique(records["client"])) == len(left)
    ports = records["nat_port"].astype(int) | (left & 1 << 15)
    assert (ports & 0xFFFF).tolist() == (0x8000 | left & 0x7FFF).tolist()
    assert sum(one[DROPPED] for one in verdicts) == count - sent
    full = maps.counters.of_slot(SERVICE)["drop_nat_full"]
    assert full >= count - sent
