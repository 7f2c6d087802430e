# SPDX-License-Identifier: Apache-2.0
"""Part 1, NAT: the cost of the XDP programs for one packet of a session, in ns (`make bench-xdp`).

As xdp.py, with wrapper_nat.c. This node owns all rows of NAT. A million sessions are made by the program itself, in
twice as many slots. Beside them, what a hash map of flows costs in the same wrapper. Prints JSON.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

import numpy as np
from bench import figures, target, testrun, xdp
from bench.xdp_case import CLIENTS, HERE_, PASS, TX, VIP, Case, Service
from support import packets
from support.packets import ACK, HERE, ROUTER, SYN

from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import NatConf, endpoint
from bpf.layout.nat_backend import BackendEntry, Balance, Choice, NatHop, NatServiceEntry
from bpf.layout.service import Protocol, ServiceEntry, ServiceKey
from bpf.layout.session import Session, SessionState, Tag, TagFlag
from bpf.maps.maps import Maps
from bpf.maps.session_map import now_tick

SESSIONS: Final = 1 << 21
POOL: Final = IPv4Network("10.255.0.0/26")
BACKEND: Final = BackendEntry(IPv4Address("10.9.0.11"), 8443, hop=2)
TABLE: Final = 20
MSS: Final = 1400
CHUNK: Final = 1 << 17
"""Sessions that are half-open at once while the table is filled: half of a bucket may be."""
ENDPOINTS, FREES, IN_ORDER = 1, 2, 4
"""The modes of wrapper_nat.c."""
RESTORE: Final = 4
SUBJECTS: Final = ("empty", "nat", "nat_bare", "lookup", "insert", "insert_pair", "delete_pair")
TAILS: Final = {2: "nat_plain", 3: "nat_general", 4: "nat_parsed"}

TURN, HASH, LEAST = Service(21), Service(22), Service(23)
SERVICES: Final = {
    TURN: NatServiceEntry(Balance.ROUND_ROBIN, choices=[Choice(1)]),
    HASH: NatServiceEntry(Balance.HASH, choices=[Choice(1)]),
    LEAST: NatServiceEntry(Balance.LEAST_CONNECTIONS, choices=[Choice(index) for index in range(1, 17)]),
}
LATER: Final = str(IPv4Address(CLIENTS) + target.MANY)
"""The first client without a session."""


def _frame(segment: bytes, src: str, dst: str) -> bytes:
    packet = packets.ipv4(segment, src=src, dst=dst, protocol=packets.TCP)
    return packets.ethernet(packet, dst=HERE, src=ROUTER, ethertype=packets.IPV4)


def _request(service: Service, flags: int = ACK, options: bytes = b"") -> bytes:
    ends = {"src": CLIENTS, "dst": VIP, "sport": 40000, "dport": service.port}
    segment = packets.tcp(options + bytes(64), flags=flags, doff=5 + len(options) // 4, **ends)
    return _frame(segment, CLIENTS, VIP)


def _answer() -> bytes:
    address, port = endpoint(POOL, 0)
    ends = {"src": str(BACKEND.address), "dst": str(address), "sport": BACKEND.port, "dport": port}
    return _frame(packets.tcp(bytes(64), flags=ACK, **ends), ends["src"], ends["dst"])


REQUEST, OPENS, ANSWER = _request(TURN), _request(TURN, SYN), _answer()
NAMES_MSS: Final = _request(TURN, SYN, b"\x02\x04\x05\xb4")
BASE: Final = Case("", REQUEST, TX, restore=RESTORE, source=HERE_)
BARE: Final = replace(BASE, name="wrapper of NAT, subtracted", subject="nat_bare", source=b"")
BARE_ENDPOINTS: Final = replace(
    BARE, name="wrapper of a backend's packet", packet=ANSWER, client=str(POOL[0]), mode=ENDPOINTS
)
BARE_FREES: Final = replace(BARE, name="wrapper that frees the session", mode=FREES)
BARE_IN_ORDER: Final = replace(BARE, name="wrapper with flows in order", mode=IN_ORDER, flows=(target.MANY,))
NEW: Final = replace(BASE, packet=OPENS, subject="nat", service=TURN, counter=Counter.FORWARD_BACKEND)
HOT: Final = replace(NEW, mode=FREES, flows=(1,))
PAIR: Final = replace(BARE, client=LATER, mode=IN_ORDER, flows=(target.MANY,))
CASES: Final = (
    replace(BARE, name=figures.EMPTY, subject="empty", verdict=PASS, flows=(1,)),
    BARE,
    BARE_ENDPOINTS,
    BARE_FREES,
    BARE_IN_ORDER,
    replace(NEW, name=target.TO_BACKEND, packet=REQUEST),
    replace(NEW, name=target.TO_CLIENT, packet=ANSWER, client=str(POOL[0]), mode=ENDPOINTS,
            counter=Counter.FORWARD_CLIENT),
    replace(HOT, name=target.NEW_SESSION),
    replace(HOT, name="NAT, a new session, backend by hash", packet=_request(HASH, SYN), service=HASH),
    replace(HOT, name="NAT, a new session, least loaded of 16", packet=_request(LEAST, SYN), service=LEAST),
    replace(HOT, name="NAT, a new session, its MSS lowered", packet=NAMES_MSS),
    replace(NEW, name=target.NEW_SESSION, mode=IN_ORDER, client=LATER, flows=(target.MANY,)),
    replace(BARE, name="hash map, lookup", subject="lookup", flows=(1, target.MANY)),
    replace(PAIR, name="hash map, insert a pair", subject="insert_pair"),
    replace(PAIR, name="hash map, delete a pair", subject="delete_pair"),
)  # fmt: skip


def wrapper_of(case: Case) -> str:
    """Return the wrapper's own case, whose cost is subtracted."""
    return {0: BARE, ENDPOINTS: BARE_ENDPOINTS, FREES: BARE_FREES, IN_ORDER: BARE_IN_ORDER}[case.mode].name


def fill(made: Maps) -> None:
    """Fill the maps of NAT, but for sessions."""
    nat = made.nat
    assert nat
    nat.write_conf(NatConf(SESSIONS, TABLE, POOL, hop4=1, mss4=MSS))
    nat.write_hop(1, NatHop(bytes([2, 0, 0, 0, 0, 0xF1])))
    nat.write_hop(2, NatHop(bytes([2, 0, 0, 0, 0, 0xF2])))
    for index in range(1, 17):
        nat.write_backend(index, replace(BACKEND, address=BACKEND.address + index - 1))
    rows = np.zeros((xdp.ROWS, CHAIN), np.uint16)
    rows[:, 0], rows[:, 1] = 1, 2
    made.tables.swap(TABLE, rows, np.zeros(xdp.ROWS, np.uint64))
    for service, entry in SERVICES.items():
        nat.write_service(service.slot, entry)
        key = ServiceKey(IPv4Address(VIP), Protocol.TCP, service.port)
        made.services.write(key, ServiceEntry(service.slot, up=True, nat=True))


@dataclass(frozen=True)
class Bench:
    """The maps with their sessions, and the program that runs on them."""

    made: Maps
    wrapped: xdp.Wrapped
    counted: Callable[[], Any]

    def fill_sessions(self) -> None:
        """Open a million sessions by the program, and establish them; and the same flows in the hash map.

        The other records of the first million slots name the backend too: so its packets find a session in each.
        """
        sessions = self.made.sessions
        assert sessions
        client, vip = IPv4Address("10.63.0.1"), IPv4Address(VIP)
        ends = (client, 40000, vip, TURN.port, BACKEND.address, BACKEND.port, POOL[0])
        one = Session(packets.TCP, *ends, 0, backend_index=1, service_slot=TURN.slot, backend_ack=1)
        sessions.sessions4[:] = np.frombuffer(one.pack(), sessions.sessions4.dtype)
        slots = np.arange(SESSIONS)
        sessions.sessions4["nat_port"] = 0x8000 | slots & 0x7FFF
        sessions.sessions4["nat"] = int(POOL[0]) + (slots >> 15)
        for first in range(0, target.MANY, CHUNK):
            count = min(CHUNK, target.MANY - first)
            client = IPv4Address(CLIENTS) + first
            opens = replace(NEW, name="filling", mode=IN_ORDER, client=str(client), flows=(target.MANY,))
            self.wrapped.run(opens, target.MANY, self.counted, count)
            flows = replace(opens, packet=REQUEST, subject="insert", counter=None, source=b"")
            self.wrapped.run(flows, target.MANY, self.counted, count)
            half_open = sessions.tags >> 40 & 0xFF == SessionState.SYN
            sessions.tags[half_open] += np.uint64(SessionState.EST - SessionState.SYN) << np.uint64(40)

    def run(self, case: Case, flows: int) -> list[float]:
        """Time a case. The sessions are the same afterwards."""
        sessions = self.made.sessions
        assert sessions
        before = sessions.tags.copy()
        if case.mode == ENDPOINTS:
            established = Tag(1, SessionState.EST, TagFlag(0), now_tick() - 1).pack()
            sessions.tags[: target.MANY][sessions.tags[: target.MANY] == 0] = established
        try:
            return self.wrapped.run(case, flows, self.counted)
        finally:
            sessions.tags[:] = before


def measure(rounds: int) -> list[dict[str, Any]]:
    """Run all cases in turn, `rounds` times, and return the rows of bench.json's `nat`."""
    testrun.isolate()
    made = xdp.tables(NatShape(SESSIONS, ipv6=False))
    fill(made)
    wrapped = xdp.Wrapped(RESTORE, {"NAT": 1}, SUBJECTS, TAILS, "wrapper_nat.c")
    bench = Bench(made, wrapped, partial(xdp.read_counters, made))
    bench.fill_sessions()
    windows: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for case in CASES:
            for flows in case.flows:
                windows[case.name, flows] += bench.run(case, flows)
    return figures.nat_rows(windows, {(case.name, flows): wrapper_of(case) for case in CASES for flows in case.flows})


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
