# SPDX-License-Identifier: Apache-2.0
"""Part 1: the cost of the XDP program for one packet, in ns (`make bench-xdp`).

Runs the cases of xdp_case.py in turn, several rounds, with wrapper.c around the program's own source. The wrapper
checks each verdict and packet; each counter is checked too before a figure counts. Prints JSON.
"""

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench import figures, testrun
from bench.xdp_case import (
    CASES,
    CLIENTS,
    CLUSTER,
    ECHO_PORT,
    MEASURED,
    OWNER,
    SELF,
    SELF6,
    SERVICES,
    SOCKETS,
    SUBJECTS,
    SUMS,
    VIP,
    Case,
    wrapper_of,
)  # fmt: skip
from support.packets import HERE

from agent.model import Candidate, State
from agent.table import rendezvous
from bpf.compiler.source import KERNEL_HEADERS, source
from bpf.kernel import bpf_map
from bpf.layout.conf import NodeConf
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoState
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import SESSIONS_MIN, NatConf
from bpf.layout.node import NodeEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.layout.uplink import UplinkEntry
from bpf.maps.maps import Maps

ROWS: Final = 65_536
NODES: Final = 16
FILLED: Final = 4
"""Places of a row that the agent fills by default."""
WINDOW: Final = 2048
WINDOWS: Final = 64
WARM_UP: Final = 32
"""Windows that are discarded: caches must first reach their steady state."""
ROUNDS: Final = WINDOW * (WINDOWS + WARM_UP) + 1
KEY: Final = bytes(range(16))
MAPS: Final = Path("/sys/fs/bpf/bench")


def tables(nat: NatShape | None = None) -> Maps:
    """Make and fill the maps of a node."""
    MAPS.mkdir()
    made = Maps.open(MAPS, ROWS, nat)
    made.uplinks.write(0, UplinkEntry(HERE, 1))
    fill(made)
    return made


def fill(made: Maps) -> None:
    """Fill the maps of node 1 of 16 as xdp_case.py describes it, by the agent's own table builder."""
    ends = {"address": IPv4Address(SELF), "address6": IPv6Address(SELF6)}
    made.conf.write(NodeConf(1, 11, KEY, cluster=CLUSTER, echo_port=ECHO_PORT, **ends))
    made.echo_state.write(EchoState(time.monotonic_ns(), boot=1, ready=True))
    made.node_prefixes.write([ip_network("10.0.0.0/24"), ip_network("2001:db8::/64")])
    for index in range(1, NODES + 1):
        node = NodeEntry(IPv4Address(f"10.0.0.{10 + index}"), 10 + index, bytes([2, 0, 0, 0, 0, index]))
        made.nodes.write(index, node)
        address6 = IPv6Address(f"2001:db8::{10 + index:x}")
        made.nodes.write(NODES + index, replace(node, address6=address6, outer6=True))
    others = [Candidate(IPv4Address(f"10.0.0.{10 + i}"), 100, 100, State.UP) for i in range(2, NODES + 1)]
    chains = rendezvous.build(others, ROWS, FILLED).places.astype(np.uint16) + 2  # place 0 is node 2
    for service in SERVICES:
        rows = np.zeros((ROWS, CHAIN), np.uint16)
        rows[:, :FILLED] = chains + NODES * service.outer6  # the same nodes again, by their IPv6 addresses
        if service.place is not None:
            rows[:, service.place] = 1
        if service.alone:
            rows[:, 1:] = 0
        made.tables.swap(service.slot, rows, np.zeros(ROWS, np.uint64))
        for protocol in Protocol:
            entry = ServiceEntry(service.slot, up=True, forward=service.forward)
            made.services.write(ServiceKey(ip_address(service.vip), protocol, service.port), entry)


@contextlib.contextmanager
def sockets() -> Iterator[None]:
    """Hold open connections from the first clients to the owner's service. A child has the clients' ends (ulimit)."""
    all_files()
    for command in (f"address add {VIP}/32 dev lo", f"route add local {CLIENTS}/16 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    with socket.create_server((VIP, OWNER.port), backlog=256) as listener:
        code = f"from bench.xdp import connect; connect({SOCKETS})"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
            assert child.stdin
            ends = [listener.accept()[0] for _ in range(SOCKETS)]
            try:
                yield
            finally:
                child.stdin.close()  # it ends by that
    for end in ends:
        end.close()


def all_files() -> None:
    """Use the hard limit on open files as the soft one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect(count: int) -> None:
    """Connect from so many clients and hold until stdin ends."""
    all_files()
    first, held = int(IPv4Address(CLIENTS)), []
    for number in range(count):
        client = socket.socket()
        client.bind((str(IPv4Address(first + number)), 40000))
        client.connect((VIP, OWNER.port))
        held.append(client)
    sys.stdin.read()


class Wrapped:
    """The program inside the wrapper, compiled for one size of the restored bytes.

    `options` are the program's own. `subjects` are what may be run, and `tails` what tail calls lead to, by its place:
    functions of the text. `more` is the name of a file that comes after wrapper.c.
    """

    def __init__(
        self,
        restore: int,
        options: Mapping[str, int] | None = None,
        subjects: Sequence[str] = SUBJECTS,
        tails: Mapping[int, str] | None = None,
        more: str = "",
    ) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(KERNEL_HEADERS)
        from bcc import BPF

        here = Path(__file__).parent
        text = _inlined(source()) + "\n" + (here / "wrapper.c").read_text()
        if more:
            text += "\n" + (here / more).read_text()
        defines = {"ROWS": ROWS, "UPLINK": 0, "PINS": json.dumps(str(MAPS)), "PROGRAM": "lb_inlined"}
        defines |= {"WINDOW": f"{WINDOW}ULL", "WINDOWS": WINDOWS + WARM_UP, "RESTORE": restore, **(options or {})}
        self._module = BPF(text=text, cflags=[f"-D{name}={value}" for name, value in defines.items()])
        self._fds = {subject: self._module.load_func(f"bench_{subject}", BPF.XDP).fd for subject in subjects}
        for place, name in (tails or {0: "tail"}).items():
            tail = self._module.load_func(f"bench_{name}", BPF.XDP).fd
            bpf_map.update(self._module["programs"].map_fd, place.to_bytes(4, "little"), tail.to_bytes(4, "little"))
        self._case_fd = self._module["bench_cases"].map_fd
        self._state_fd = self._module["bench_states"].map_fd
        self._restore = restore

    def run(self, case: Case, flows: int, counted: Any, rounds: int = ROUNDS) -> list[float]:
        """Time a case: ns per packet of each window. Raises AssertionError if any round had a wrong result."""
        packet = case.packet.ljust(16 * self._restore, b"\0")
        source = case.source or packet[6:10]
        words = (len(packet), case.verdict, flows, case.client_at, int(IPv4Address(case.client)), case.grows)
        zero = bytes(4)
        head = struct.pack("=5Ii4sI", *words, source, case.mode)
        bpf_map.update(self._case_fd, zero, head + packet[: 16 * self._restore])
        size = 8 * (4 + WINDOWS + WARM_UP)
        bpf_map.update(self._state_fd, zero, bytes(size))
        before = counted()
        verdict, _ = testrun.repeat(self._fds[case.subject], packet, rounds)
        state = bpf_map.lookup(self._state_fd, zero, size)
        assert state
        _random, done, wrong, _since, *window_ns = struct.unpack(f"={size // 8}Q", state)
        assert (done, wrong, verdict) == (rounds, 0, case.verdict), f"{case.name}: {wrong} of {done} rounds went wrong"
        if case.counter is not None:
            rose = {event: value - before[event] for event, value in counted().items() if value != before[event]}
            assert rose.get((case.service.slot if case.service else 0, case.counter)) == rounds, (
                f"{case.name}: counted {rose}"
            )
        return [ns / WINDOW for ns in window_ns[WARM_UP:]]


def _inlined(text: str) -> str:
    """Return lb.c's text with its programs as functions that the wrapper inlines."""
    for entry in ("PROGRAM", "general", "nat", "nat_general", "nat_parsed"):
        assert text.count(f"int {entry}(struct") == 1, f"wrapper.c wants one `int {entry}(` in lb.c"
        text = text.replace(f"int {entry}(struct", f"static __always_inline int {entry}(struct")
    return text


def read_counters(made: Maps) -> dict[tuple[int, Counter], int]:
    """Return all counters, by slot."""
    return {(s, Counter[n.upper()]): v for s, counters in made.counters.read().items() for n, v in counters.items()}


def measure(rounds: int) -> list[dict[str, Any]]:
    """Run all cases in turn, `rounds` times, and return the rows of bench.json's `xdp`."""
    testrun.isolate()
    made = tables(NatShape(SESSIONS_MIN, ipv6=False))  # what the program without NAT does not see
    assert made.nat
    made.nat.write_conf(NatConf(SESSIONS_MIN, 0, IPv4Network("10.255.0.0/31")))
    counted = partial(read_counters, made)
    kinds = {(case.restore, case.lean, case.nat) for case in CASES}
    wrapped = {kind: _wrapped(*kind) for kind in kinds}
    windows: dict[tuple[str, int], list[float]] = defaultdict(list)
    with sockets():
        for _ in range(rounds):
            for case in CASES:
                for flows in case.flows:
                    windows[case.name, flows] += wrapped[case.restore, case.lean, case.nat].run(case, flows, counted)
    rows = figures.xdp_rows(windows, {case.name: wrapper_of(case) for case in CASES if case.subject in MEASURED})
    return rows + sums(rows)


def _wrapped(restore: int, lean: bool, nat: bool) -> Wrapped:
    options = {"IPV6": 0} if lean else {}
    return Wrapped(restore, {**options, "NAT": 1}, ("lb",)) if nat else Wrapped(restore, options)


def sums(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sums of one packet's costs on all nodes that it visits."""
    found = {(row["case"], row["flows"]): row for row in rows}
    return [
        figures.sum_row(name, [found[part] for part in parts], found[figures.FLOOR, 1]) for name, parts in SUMS.items()
    ]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
