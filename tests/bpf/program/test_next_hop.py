# SPDX-License-Identifier: Apache-2.0
"""The next-hop rule: the real program, with real sockets (next_hop_sockets.py), against bpf/reference/pick.py."""

import itertools
import os
import random
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from support import packets
from support.next_hop_sockets import DNS, ECHO, UNKNOWN_NODE, Flow, Sockets

from bpf.kernel import bpf_map
from bpf.layout.conf import ConfFlag, NodeConf, OtherEpoch
from bpf.layout.counter import Counter
from bpf.layout.limits import HOP_MAX
from bpf.layout.service import Protocol
from bpf.reference.pick import WHY, Arrival, Decision, NodeState, join_rows, pick

FOREVER = 2**63
SIZES = [*range(3), *(pytest.param(size, marks=pytest.mark.slow) for size in (3, 4, 5))]
KINDS = ["none", "established", "time-wait", "syn-recv", "cookie", "bad cookie", "udp", "udp connected"]


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
PARTS = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 12))]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", SOME)
def test_program_equals_reference_with_two_epochs(
    kind: str, part: int, two_epochs: OtherEpoch, silence: Any, flows: dict[str, Flow], program: Any
) -> None:
    """Any two chains of up to 8 nodes: which of their places are used, and in which order."""
    flow, choose = flows[kind], random.Random(f"{kind} {part}")
    other_row = flow.row_under(two_epochs.hash_key)
    states = []
    for number in range(100):
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
    for number in range(150):
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
