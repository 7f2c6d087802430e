# SPDX-License-Identifier: Apache-2.0
"""Two CPUs make sessions in the same two buckets while a scan removes those that ended: none is given twice, none lost.

A worker on each CPU opens, uses and ends sessions of its own flows, all of one row; every reply must reach the flow's
own client. `--nat-sessions 1000000` for a figure to quote.
"""

import itertools
import mmap
import multiprocessing
import os
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import packets
from support.nat_stage import CLIENTS, VERDICTS, Flow, NatStage, slot_in
from support.netns import new_netns
from support.testrun import Runner

from agent.sessions.tag_array import states_of
from bpf.kernel.atomic import compare_exchange
from bpf.layout.counter import Counter
from bpf.layout.nat import NAT_ROWS
from bpf.layout.service import Protocol
from bpf.layout.session import WAYS, SessionState
from bpf.maps.session_map import now_tick

FLOWS = 8
"""Of each worker: both together want more than the slots in which the owner of a row makes sessions."""
LAYER = NAT_ROWS * WAYS
"""Slots from a bucket of a row to its next one."""


@pytest.fixture(scope="module")
def nat(proof_bpffs: Path) -> Iterator[NatStage]:
    with new_netns():
        with NatStage.opened(proof_bpffs / "nat") as made:
            yield made
        shutil.rmtree(proof_bpffs / "nat")


def place_in_row(slot: int) -> int:
    return slot // LAYER * WAYS + slot % WAYS


def flows_of_one_row() -> list[Flow]:
    ends = itertools.product(range(8), range(1024, 65536))
    tried = (Flow(4, Protocol.TCP, CLIENTS[4] + host, port) for host, port in ends)
    first = next(tried)
    return [first, *itertools.islice((flow for flow in tried if flow.row == first.row), 2 * FLOWS - 1)]


def frame(source: Any, source_port: int, target: Any, target_port: int, flags: int, seq: int, ack: int = 0) -> bytes:
    ends = {"src": str(source), "dst": str(target)}
    segment = packets.tcp(sport=source_port, dport=target_port, flags=flags, seq=seq, ack=ack, **ends)
    return packets.ethernet(packets.ipv4(segment, protocol=packets.TCP, **ends), dst=packets.HERE, src=packets.ROUTER)


@dataclass(frozen=True)
class Opened:
    """A session: its slot, and the ends of the packet that reached the backend, as bytes of its headers."""

    slot: int
    addresses: bytes
    ports: bytes


class Client:
    """A flow, and its packets as frames."""

    def __init__(self, number: int, flow: Flow) -> None:
        self.number, self.flow = number, flow
        ends = flow.client, flow.client_port, flow.vip, flow.vip_port
        self.syn, self.ack, self.reset = (
            frame(*ends, flags, seq, ack)
            for flags, seq, ack in ((packets.SYN, 999, 0), (packets.ACK, 1000, 5000), (packets.RST, 1000, 0))
        )
        # What a backend answers, without its ends; the program does not look at checksums.
        self.answers = [
            frame(*ends, flags, seq, 1000)
            for flags, seq in ((packets.SYN | packets.ACK, 4999), (packets.ACK, 5000))
        ]  # fmt: skip
        self.to_client = flow.vip.packed + flow.client.packed, self.syn[36:38] + self.syn[34:36]


class Worker:
    """Opens, uses and ends sessions. `owners`, by place in the row, is whose each is; shared with the other worker."""

    def __init__(self, fd: int, clients: list[Client], owners: Any) -> None:
        self._runner = Runner(fd)
        self._clients = clients
        self._owners = owners
        self.made = self.refused = 0

    def run(self, count: int) -> None:
        """Make so many sessions or a few more: in each round as many are open at once as there is room for."""
        while self.made < count:
            opened = [(client, session) for client in self._clients if (session := self._open(client))]
            if not opened:
                os.sched_yield()  # the scan has to free something first
            for client, session in opened:
                self._answer(client, session, client.answers[0])
                assert self._sent(client.ack) == session
                self._answer(client, session, client.answers[1])
            for client, session in opened:
                assert self._owners[place_in_row(session.slot)] == client.number, "a slot is given twice"
                self._owners[place_in_row(session.slot)] = 0
                assert self._sent(client.reset) == session

    def _open(self, client: Client) -> Opened | None:
        session = self._sent(client.syn)
        if session is None:
            self.refused += 1
            return None
        assert session.slot // WAYS in client.flow.place.buckets
        assert self._owners[place_in_row(session.slot)] == 0, "a slot is given twice"
        self._owners[place_in_row(session.slot)] = client.number
        self.made += 1
        return session

    def _sent(self, packet: bytes) -> Opened | None:
        """Send a client's packet; return the session by which it left, None if it was refused."""
        verdict, after = self._runner.run(packet)
        if VERDICTS[verdict] == "drop":
            assert packet[47] == packets.SYN, "a session is lost"
            return None
        assert VERDICTS[verdict] == "tx"
        slot = slot_in(4, IPv4Address(after[26:30]), int.from_bytes(after[34:36], "big"))
        return Opened(slot, after[26:34], after[34:38])

    def _answer(self, client: Client, session: Opened, answer: bytes) -> None:
        """Send the backend's answer; it must reach the client."""
        back = session.addresses[4:] + session.addresses[:4], session.ports[2:] + session.ports[:2]
        verdict, after = self._runner.run(answer[:26] + back[0] + back[1] + answer[38:])
        assert VERDICTS[verdict] == "tx", "a session is lost"
        assert (after[26:34], after[34:38]) == client.to_client, "a session is another client's"


def work(cpu: int, worker: Worker, count: int, report: Connection) -> None:
    """Run in a process of its own, on that CPU; report how many sessions were made and refused, or the failure."""
    try:
        os.sched_setaffinity(0, {cpu})
        worker.run(count)
        report.send((worker.made, worker.refused))
    except BaseException:
        report.send(traceback.format_exc())


class Remover:
    """Frees what is closed, as the agent's scan does, but at once. What changed since it was read stays."""

    def __init__(self, tags: Any, slots: Any) -> None:
        self._tags, self._slots = tags, slots
        self.removed = 0

    def remove(self) -> None:
        seen = self._tags[self._slots]
        ended = np.flatnonzero(states_of(seen) == SessionState.CLOSED)
        free = np.full(len(ended), now_tick(), np.uint64)
        self.removed += int(compare_exchange(self._tags, self._slots[ended], seen[ended], free).sum())


@pytest.mark.slow
def test_two_cpus_claim_one_bucket(nat: NatStage, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--nat-sessions") // 2
    clients = [Client(number, flow) for number, flow in enumerate(flows_of_one_row(), 1)]
    slots = np.arange(len(nat.sessions.tags))
    remover = Remover(nat.sessions.tags, slots[slots // WAYS % NAT_ROWS == clients[0].flow.row])
    cpus = sorted(os.sched_getaffinity(0))
    before = nat.counted()
    with mmap.mmap(-1, 4096) as shared:
        forked = multiprocessing.get_context("fork")
        reports, processes = [], []
        for number in (0, 1):
            receive, send = forked.Pipe(duplex=False)
            worker = Worker(nat.fd, clients[number::2], shared)
            process = forked.Process(target=work, args=(cpus[number % len(cpus)], worker, count, send), daemon=True)
            process.start()
            reports.append(receive)
            processes.append(process)
        while any(process.is_alive() for process in processes):
            remover.remove()
        results = [report.recv() for report in reports]
    assert not [result for result in results if isinstance(result, str)], "\n".join(map(str, results))
    remover.remove()
    made = sum(result[0] for result in results)
    after = nat.counted()
    print(f"{made} sessions, {sum(result[1] for result in results)} refused, {remover.removed} removed by the scan")
    assert not states_of(nat.sessions.tags).any()
    assert int(nat.nat.loads[:, 0].sum()) == 0
    assert int(nat.nat.loads[:, 1].sum()) == made
    assert after[Counter.DROP_NAT_FULL] - before[Counter.DROP_NAT_FULL] == sum(result[1] for result in results)
