# SPDX-License-Identifier: Apache-2.0
"""The next-hop rule: the real program, with real sockets, against bpf/reference/pick.py.

Sockets are in a namespace of the test's own:

    client 10.1.0.2 (lo) ──── VIP 10.99.0.1 (lo)          connections and TIME-WAIT, by ordinary sockets
    client 10.1.9.9 ── wire │ feed ── VIP                 half-open handshakes, by handmade segments
"""

import itertools
import os
import random
import socket
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from support import packets
from support.packets import ACK, HERE, ROUTER, SYN

from bpf.kernel import bpf_map
from bpf.layout.conf import ConfFlag, NodeConf, OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.limits import HOP_MAX
from bpf.layout.service import Protocol
from bpf.reference.flow_hash import row_of
from bpf.reference.pick import WHY, Arrival, Decision, NodeState, Socket, join_rows, pick

VIP, CLIENT, FAR_CLIENT = "10.99.0.1", "10.1.0.2", "10.1.9.9"
ROWS, KEY = 4096, bytes(range(16))
ECHO, DNS = 1, 2
FOREVER = 2**63
UNKNOWN_NODE = 9  # not in the node table
SIZES = [*range(3), *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4, 5))]
KINDS = ["none", "established", "time-wait", "syn-recv", "cookie", "bad cookie", "udp", "udp connected"]


@dataclass(frozen=True)
class Flow:
    """A flow to the service, and the kernel's socket for it."""

    socket: Socket
    client: str
    port: int
    udp: bool = False
    ack: int = 0

    @property
    def slot(self) -> int:
        return DNS if self.udp else ECHO

    @property
    def row(self) -> int:
        return self.row_under(KEY)

    def row_under(self, key: bytes) -> int:
        return row_of(key, ROWS, IPv4Address(self.client), self.port, IPv4Address(VIP), 53 if self.udp else 7000)

    def frame(self, opens: bool, hop: int = 0, prev: int = UNKNOWN_NODE) -> bytes:
        ends = {"src": self.client, "dst": VIP}
        if self.udp:
            inner = packets.udp(b"?", sport=self.port, dport=53, **ends)
        else:
            flags = SYN if opens else ACK
            inner = packets.tcp(sport=self.port, dport=7000, flags=flags, seq=2, ack=self.ack, **ends)
        source = packets.marker(hop, 10 + prev) if hop else ROUTER
        protocol = packets.UDP if self.udp else packets.TCP
        return packets.ethernet(packets.ipv4(inner, protocol=protocol, **ends), dst=HERE, src=source)


def sysctl(name: str, value: int) -> None:
    Path("/proc/sys/net/ipv4", name).write_text(str(value))


class Wire:
    """The far end of the namespace's veth: sends segments as a client, receives the kernel's answers."""

    def __init__(self, run: Any) -> None:
        run("ip", "link", "add", "feed", "address", "02:00:00:00:00:aa", "type", "veth", "peer", "name", "wire")
        run("ip", "link", "set", "feed", "arp", "off", "up")
        run("ip", "link", "set", "wire", "up")
        run("ip", "address", "add", "10.1.0.1/16", "dev", "feed")
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(packets.IPV4))
        self._socket.bind(("wire", packets.IPV4))
        self._socket.settimeout(5)

    def open_half(self, port: int) -> int:
        """Send a SYN without the final ACK; return the sequence number of the kernel's SYN-ACK."""
        ends = {"src": FAR_CLIENT, "dst": VIP}
        segment = packets.ipv4(packets.tcp(sport=port, dport=7000, **ends), protocol=packets.TCP, **ends)
        self._socket.send(packets.ethernet(segment, dst=packets.mac("02:00:00:00:00:aa"), src=ROUTER))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            frame = self._socket.recv(2048)
            if frame[34:38] == (7000).to_bytes(2, "big") + port.to_bytes(2, "big") and frame[47] == SYN | ACK:
                return int.from_bytes(frame[38:42], "big")
        raise TimeoutError("no SYN-ACK")

    def close(self) -> None:
        self._socket.close()


class Sockets:
    """A socket in each state for flows to TCP port 7000 and UDP port 53 of the VIP.

    The kernel removes some of them after a minute; on a busy machine the tests of this file take longer.
    """

    KEPT_S = 20

    def __init__(self, run: Any, stack: ExitStack) -> None:
        self._stack = stack
        for address in (VIP, CLIENT):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        sysctl("conf/all/rp_filter", 0)
        sysctl("tcp_synack_retries", 12)
        self._wire = Wire(run)
        stack.callback(self._wire.close)
        self._listener = stack.enter_context(socket.create_server((VIP, 7000)))
        self._connect(40001)
        sysctl("tcp_syncookies", 1)
        self._wire.open_half(40003)
        self._datagrams()
        self._renew()

    def flows(self) -> dict[str, Flow]:
        if time.monotonic() - self._since > self.KEPT_S:
            self._renew()
        return {
            "none": Flow(Socket.NONE, CLIENT, 40000),
            "established": Flow(Socket.CONNECTION, CLIENT, 40001),
            "time-wait": Flow(Socket.TIME_WAIT, CLIENT, 40002),
            "syn-recv": Flow(Socket.CONNECTION, FAR_CLIENT, 40003),
            "cookie": Flow(Socket.COOKIE, FAR_CLIENT, 40004, ack=self._cookie + 1),
            "bad cookie": Flow(Socket.NONE, FAR_CLIENT, 40004, ack=self._cookie + 4711),
            "udp": Flow(Socket.NONE, CLIENT, 40010, udp=True),
            "udp connected": Flow(Socket.CONNECTION, CLIENT, 40011, udp=True),
        }

    def _renew(self) -> None:
        self._since = time.monotonic()
        client, server = self._connect(40002)
        server.close()  # the end that closes first gets TIME-WAIT
        assert client.recv(1) == b""
        client.close()
        sysctl("tcp_syncookies", 2)
        self._cookie = self._wire.open_half(40004)

    def _connect(self, port: int) -> tuple[socket.socket, socket.socket]:
        client = self._stack.enter_context(socket.create_connection((VIP, 7000), 5, (CLIENT, port)))
        return client, self._stack.enter_context(self._listener.accept()[0])

    def _datagrams(self) -> None:
        """Open unconnected sockets at two ports, and one that is connected to a client's port."""
        for port, connected in ((54, False), (53, False), (53, True)):
            udp = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.bind((VIP, port))
            if connected:
                udp.connect((CLIENT, 40011))


@pytest.fixture(scope="module")
def sockets(program: Any, runner: Any) -> Iterator[Sockets]:
    with ExitStack() as stack:
        made = Sockets(runner, stack)
        program.serve(ECHO, Protocol.TCP, 7000)
        program.serve(DNS, Protocol.UDP, 53)
        for slot in (ECHO, DNS):
            program.set_chain(slot, ())
        yield made


@pytest.fixture
def flows(sockets: Sockets) -> dict[str, Flow]:
    """A flow for each state of a socket."""
    return sockets.flows()


VERDICTS = {event: "drop" if event.name.startswith("DROP_") else "pass" for event in WHY}


def carried(of: Arrival[int] | Decision[int]) -> int:
    """Return the hop as a marker has it."""
    return of.hop | (0x10 if of.in_grace else 0)


def expected(decision: Decision[int], frame: bytes) -> tuple[str, bytes]:
    if decision.to is None:
        return VERDICTS[decision.event], frame
    return "tx", packets.mac(f"02:00:00:00:00:{decision.to:02x}") + packets.marker(carried(decision), 11) + frame[12:]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_program_equals_reference(kind: str, size: int, flows: dict[str, Flow], program: Any) -> None:
    """Every chain of up to 5 nodes, every hop, every previous node, SYN and ACK, up or not, in grace or not."""
    flow = flows[kind]
    arrivals = [
        Arrival(opens, hop, prev, flow.udp, in_grace)
        for opens in ((True,) if flow.udp else (True, False))
        for hop in range(HOP_MAX + 2)
        for prev in ((2, 3, 4, 5, UNKNOWN_NODE) if hop else (UNKNOWN_NODE,))
        for in_grace in ((False, True) if prev == 2 else (False,))
    ]
    frames = [(arrival, flow.frame(arrival.opens, carried(arrival), arrival.prev)) for arrival in arrivals]
    predicted: Tally[Counter] = Tally()
    before = program.counted()
    for up in (True, False):
        program.serve(flow.slot, Protocol.UDP if flow.udp else Protocol.TCP, 53 if flow.udp else 7000, up=up)
        for chain, grace in itertools.product(itertools.permutations(range(1, 6), size), (False, True)):
            program.set_row(flow.slot, flow.row, chain, FOREVER if grace else 0)
            here = NodeState(1, chain, flow.socket, up, grace)
            for arrival, frame in frames:
                decision = pick(here, arrival)
                predicted[decision.event] += 1
                assert program.send(frame) == expected(decision, frame), (here, arrival, decision)
    after = program.counted()
    counted = {event: after[flow.slot, event] - before[flow.slot, event] for event in WHY}
    assert counted == {event: predicted[event] for event in WHY}


@pytest.fixture
def two_epochs(flows: dict[str, Flow], program: Any) -> Iterator[OtherEpoch]:
    """New flows use the second bank, whose key is the usual one."""
    before = program.maps.conf.read()
    other = OtherEpoch(bytes(16), alternating=True)
    for slot, bank in itertools.product((ECHO, DNS), (0, 1)):
        program.set_chain(slot, (), bank=bank)
    program.maps.conf.write(replace(before, bank=1, other=other))
    yield other
    program.maps.conf.write(before)


@pytest.fixture
def silence(program: Any) -> Iterator[Callable[[set[int], set[int]], None]]:
    """Make nodes silent, and these alone; the second set is awaited."""

    def write(silent: set[int], awaited: set[int]) -> None:
        program.maps.conf.set_flag(ConfFlag.SILENT, bool(silent))
        for index in range(2, 9):
            until_ns = FOREVER if index in awaited else 0
            program.know_node(index, silent=index in silent, drop_until_ns=until_ns)

    yield write
    write(set(), set())


SOME = [kind for kind in KINDS if kind != "bad cookie"]
PARTS = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 6))]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", SOME)
def test_program_equals_reference_with_two_epochs(
    kind: str, part: int, two_epochs: OtherEpoch, silence: Any, flows: dict[str, Flow], program: Any
) -> None:
    """Any two chains of up to 8 nodes: which of their places are used, and in which order."""
    flow, choose = flows[kind], random.Random(f"{kind} {part}")
    other_row = flow.row_under(two_epochs.hash_key)
    states = []
    for number in range(200):
        if number % 50 == 0:
            alternating, up = choose.random() < 0.5, choose.random() < 0.5
            silent, awaited = some_silent(choose) if number % 100 else (set(), set())
        first, other = (choose.sample(range(1, 9), choose.choice((0, 1, 1, 2, 3, 4, 7, 8))) for _ in range(2))
        graces = choose.random() < 0.2, choose.random() < 0.2
        chain = join_rows(first, other, alternating)
        here = NodeState(1, chain, flow.socket, up, any(graces), silent=silent, awaited=awaited)
        states.append((here, (first, other, alternating, graces)))

    def install(here: NodeState[int], rows: Any) -> None:
        first, other, alternating, graces = rows
        conf = program.maps.conf.read()
        if conf.other.alternating != alternating:
            program.maps.conf.write(replace(conf, other=replace(two_epochs, alternating=alternating)))
        program.set_row(flow.slot, flow.row, first, FOREVER if graces[0] else 0, bank=1)
        program.set_row(flow.slot, other_row, other, FOREVER if graces[1] else 0, bank=0)

    compare(flow, states, install, silence, choose, program)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", SOME)
def test_program_equals_reference_with_silent_nodes(
    kind: str, part: int, silence: Any, flows: dict[str, Flow], program: Any
) -> None:
    """Any chain of up to 8 nodes, any of them silent, for long or since a short time ago."""
    flow, choose = flows[kind], random.Random(f"silent {kind} {part}")
    states = []
    for number in range(300):
        if number % 20 == 0:
            (silent, awaited), up = some_silent(choose), choose.random() < 0.5
        chain, grace = choose.sample(range(1, 9), choose.choice((0, 1, 1, 2, 2, 3, 4, 7, 8))), choose.random() < 0.2
        here = NodeState(1, tuple(chain), flow.socket, up, grace, silent=silent, awaited=awaited)
        states.append((here, None))

    def install(here: NodeState[int], _: None) -> None:
        program.set_row(flow.slot, flow.row, here.chain, FOREVER if here.grace else 0)

    compare(flow, states, install, silence, choose, program)


def some_silent(choose: random.Random) -> tuple[set[int], set[int]]:
    silent = set(choose.sample(range(2, 9), choose.randrange(1, 7)))
    return silent, set(choose.sample(sorted(silent), choose.randrange(min(3, len(silent)) + 1)))


def compare(
    flow: Flow,
    states: list[tuple[NodeState[int], Any]],
    install: Any,
    silence: Any,
    choose: random.Random,
    program: Any,
) -> None:
    """Send 20 packets of any kind to a node in each of these states, which `install` writes; compare all results."""
    predicted: Tally[Counter] = Tally()
    before, last = program.counted(), None
    for here, rows in states:
        if last is None or (here.silent, here.awaited) != (last.silent, last.awaited):
            silence(here.silent, here.awaited)
        if last is None or here.up != last.up:
            program.serve(flow.slot, Protocol.UDP if flow.udp else Protocol.TCP, 53 if flow.udp else 7000, up=here.up)
        install(here, rows)
        last = here
        for _ in range(20):
            hop = choose.randrange(HOP_MAX + 1)
            prev = choose.randrange(2, 10) if hop else UNKNOWN_NODE
            in_grace = hop > 0 and choose.random() < 0.3
            arrival = Arrival(flow.udp or choose.random() < 0.3, hop, prev, flow.udp, in_grace)
            frame, decision = flow.frame(arrival.opens, carried(arrival), prev), pick(here, arrival)
            predicted[decision.event] += 1
            assert program.send(frame) == expected(decision, frame), (here, rows, arrival, decision)
    after = program.counted()
    counted = {event: after[flow.slot, event] - before[flow.slot, event] for event in WHY}
    assert counted == {event: predicted[event] for event in WHY}


def test_other_epochs_owner_is_reached_without_rate_limit(
    two_epochs: OtherEpoch, flows: dict[str, Flow], program: Any
) -> None:
    """After a switch each old connection takes two forwards, which must not share a rate limit with a flood."""
    flow = flows["none"]
    conf = program.maps.conf.read()
    program.set_row(ECHO, flow.row, (1, 2), bank=1)
    program.set_row(ECHO, flow.row_under(two_epochs.hash_key), (3, 4), bank=0)
    used_up = {"again_per_s": 1, "again_burst": 0}
    for alternating, drops in ((True, False), (False, True)):
        program.maps.conf.write(replace(conf, **used_up, other=replace(two_epochs, alternating=alternating)))
        verdicts = {program.send(flow.frame(opens=False, hop=1, prev=5))[0] for _ in range(50)}
        assert ("drop" in verdicts) == drops
    assert "drop" in {program.send(flow.frame(opens=False, hop=2, prev=5))[0] for _ in range(50)}
    bpf_map.update(program.maps.pinned["spent"].fd, bytes(4), bytes(8 * bpf_map.possible_cpus()))


def test_grace_ends(flows: dict[str, Flow], program: Any) -> None:
    flow = flows["none"]
    frame = flow.frame(opens=False, hop=2, prev=2)
    program.set_row(ECHO, flow.row, (2, 1), time.monotonic_ns() + 300_000_000)
    assert program.send(frame)[0] == "drop"
    deadline = time.monotonic() + 5
    while program.send(frame)[0] == "drop":
        assert time.monotonic() < deadline
    program.set_row(ECHO, flow.row, (2, 1), time.monotonic_ns() - 20_000_000)  # the program's clock has ticks
    assert program.send(frame)[0] == "pass"


def test_second_forwards_are_limited_per_cpu(flows: dict[str, Flow], program: Any) -> None:
    """A burst of 10, then 5 a second; first forwards are never limited."""
    flow = flows["none"]
    conf = program.maps.conf.read()
    program.set_row(ECHO, flow.row, (2, 3))
    program.maps.conf.write(NodeConf(conf.self_index, conf.self_tag, conf.hash_key, again_per_s=5, again_burst=10))
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    before = program.counted()
    try:
        start = time.monotonic()
        verdicts = Tally(program.send(flow.frame(False, hop=1))[0] for _ in range(2000))
        after = program.counted()
        assert 10 <= verdicts["tx"] <= 12 + 5 * (time.monotonic() - start)
        for event, verdict in ((Counter.FORWARD_AGAIN, "tx"), (Counter.DROP_RATE_LIMIT, "drop")):
            assert after[ECHO, event] - before[ECHO, event] == verdicts[verdict]
        assert verdicts.total() == verdicts["tx"] + verdicts["drop"] == 2000
        assert all(program.send(flow.frame(False))[0] == "tx" for _ in range(100))
    finally:
        os.sched_setaffinity(0, cpus)
        program.maps.conf.write(conf)
