# SPDX-License-Identifier: Apache-2.0
"""NAT with two backends: which one a session gets, and what two connections go through from their SYN to their end."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.nat_node import BACKENDS, WEB, Flow, Here, establish, frame, reply, to_backend, to_client
from support.nat_stage import open_nat
from support.packets import ACK, FIN, RST, SYN

from agent.sessions.scan import limits, scan
from agent.sessions.session_table import SessionTable
from bpf.compiler import build, source
from bpf.kernel.pin import open_pin
from bpf.layout.counter import Counter
from bpf.layout.nat_backend import Balance, Choice, NatServiceEntry
from bpf.layout.service import Affinity
from bpf.layout.session import SessionState
from bpf.maps.session_map import now_tick

PARITY = 4
"""A balance of this file alone, in place of BALANCE_HASH to BALANCE_WEIGHTED."""


def scanned(here: Here, seconds: int) -> list[int]:
    """Free what has expired in so many seconds; return the slots that are still used."""
    table = SessionTable(here.sessions, here.nat)
    found = scan(here.sessions.tags, now_tick() + seconds, limits(False))
    table.free(found.expired, found.tags)
    return [slot for slot in here.used() if here.tag(slot).state is not SessionState.FREE]


def test_connections_to_two_backends_by_hash_from_syn_to_end(here: Here) -> None:
    """Both directions are translated. A RST empties the table, and so do FIN, FIN and ACK."""
    here.balance(1, 2, by=Balance.HASH)
    flows = {}
    for port in itertools.count(40_000):
        flow = Flow(port)
        slot, session = establish(here, flow)
        flows.setdefault(str(session.backend), (flow, slot, session))
        if len(flows) == len(BACKENDS):
            break
        assert port < 40_100
    for flow, _, session in flows.values():
        request, answer = flow.request(ACK, b"GET", seq=101, ack=5001), reply(session, ACK, b"OK", seq=5001, ack=104)
        assert here.program.send(frame(request))[1] == to_backend(session, request)
        assert here.program.send(frame(answer))[1] == to_client(session, answer)
        assert here.program.send(frame(flow.request(SYN, b"", seq=100)))[1] == to_backend(
            session, flow.request(SYN, b"", seq=100)
        ), "the same backend"
    (reset, slot, _), (closed, slot2, session) = (flows[address] for address in BACKENDS)
    for packet in (
        reset.request(RST | ACK, b"", seq=104, ack=5003),
        closed.request(FIN | ACK, b"", seq=104, ack=5003),
        reply(session, FIN | ACK, b"", seq=5003, ack=105),
        closed.request(ACK, b"", seq=105, ack=5004),
    ):
        assert here.program.send(frame(packet))[0] == "tx"
    assert {here.tag(one).state for one in (slot, slot2)} == {SessionState.CLOSED}
    open_still = set(here.used()) - {slot, slot2}
    assert set(scanned(here, 10)) == open_still, "the endpoints rest for 2 s"
    assert [here.nat.load(index).active for index in (1, 2)] == [
        sum(str(here.sessions.read(one).backend) == address for one in open_still) for address in BACKENDS
    ]
    assert scanned(here, 3700) == []


@pytest.fixture(scope="module")
def by_parity(
    bpffs: Path, module_netns: None, make_program: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Here]:
    """A node whose program has one balance more."""
    copy, folder = tmp_path_factory.mktemp("parity") / "bpf", bpffs / "parity"
    shutil.copytree(source.SOURCES.parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    header = copy / "src" / "backend.h"
    case = f"	case {PARITY}:\n		at = ntohs(pkt->client_port) % count;\n		break;\n"
    text = header.read_text().replace("	case BALANCE_HASH:\n", f"{case}	case BALANCE_HASH:\n")
    assert text != header.read_text()
    header.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        for module in (source, build):
            patch.setattr(module, "SOURCES", copy / "src")
        path = open_nat(folder)
    pin = next(folder.glob("program0_*"))
    fd = open_pin(pin)
    assert fd is not None
    yield Here(make_program(fd, pin, path.maps))
    path.close()
    shutil.rmtree(folder)


@pytest.mark.slow  # it compiles and loads a program of its own
def test_a_balance_of_one_s_own(by_parity: Here) -> None:
    """The parity of the client's port."""
    by_parity.reset()
    by_parity.nat.write_service(WEB, NatServiceEntry(PARITY, choices=(Choice(1), Choice(2))))  # type: ignore[arg-type]
    for port in range(41_000, 41_040):
        flow = Flow(port)
        before = set(by_parity.used())
        _, after = by_parity.program.send(frame(flow.request()))
        (slot,) = set(by_parity.used()) - before
        session = by_parity.sessions.read(slot)
        assert session.backend == ip_address(BACKENDS[port % 2])
        assert after == to_backend(session, flow.request())
        answer = reply(session, SYN | ACK)
        assert by_parity.program.send(frame(answer))[1] == to_client(session, answer)
    assert [by_parity.nat.load(index).active for index in (1, 2)] == [20, 20]


def test_balance_in_turn(here: Here) -> None:
    here.balance(1, 2, 2)
    for port in range(6):
        here.program.send(frame(Flow(41000 + port).request()))
    assert [here.nat.load(index).chosen for index in (1, 2)] == [2, 4]


def test_balance_by_the_least_connections(here: Here) -> None:
    here.nat.write_service(WEB, NatServiceEntry(Balance.LEAST_CONNECTIONS, choices=(Choice(1, 1), Choice(2, 3))))
    for port in range(8):
        here.program.send(frame(Flow(41000 + port).request()))
    assert [here.nat.load(index).active for index in (1, 2)] == [2, 6]


def test_balance_by_the_clients_address(here: Here) -> None:
    here.balance(1, 2, by=Balance.HASH, affinity=Affinity.TWO_TUPLE)
    for port in range(8):
        here.program.send(frame(Flow(41000 + port).request()))
    assert sorted(here.nat.load(index).active for index in (1, 2)) == [0, 8], "one client, one backend"
    here.reset()
    here.balance(1, 2, by=Balance.HASH)
    for port in range(64):
        here.program.send(frame(Flow(41000 + port).request()))
    assert min(here.nat.load(index).active for index in (1, 2)) > 16


def test_no_backend(here: Here) -> None:
    here.balance()
    outcome = here.program.observe(frame(Flow().request()))
    assert (outcome.verdict, outcome.events[WEB, Counter.DROP_NAT_NO_BACKEND]) == ("drop", 1)
    assert here.used() == []
