# SPDX-License-Identifier: Apache-2.0
"""lbctl session at a control socket, with sessions in ordinary memory."""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.session_slots import CLIENT, POOLS, SLOTS, VIP, Slots
from support.waiting import wait_for

from agent.cli.client import follow
from agent.cli.session_line import line_of
from agent.config.nat import NatConfig
from agent.control.http_server import HttpServer
from agent.control.server import _respond
from agent.control.session import Sessions, nat_row, routes
from agent.model import Flow
from agent.sessions import watch as watch_module
from agent.sessions.keeper import SessionKeeper
from agent.sessions.page import Names, decode
from agent.sessions.watch import SessionWatch
from agent.table.epoch import Epoch
from bpf.layout.session import WAYS, SessionState, TagFlag
from bpf.maps.session_map import now_tick

EPOCHS = [Epoch(1, 1, 65_536, 4, bytes(range(16))), Epoch(2, 1, 65_536, 4, bytes(16))]
NAT = NatConfig.model_construct(pool=POOLS[4], pool6=POOLS[6], sessions=SLOTS)
FLOW = Flow("tcp", CLIENT, 41_000, VIP, 443)
Run = Callable[..., tuple[str, str]]


class Node:
    """An agent's control socket, and the slots behind it."""

    def __init__(self, path: Path) -> None:
        self.path, self.slots = path, Slots()
        ring = SimpleNamespace(read=list, close=lambda: None)
        self.watch = SessionWatch(self.slots.table, lambda: cast(Any, ring), lambda _: None)
        keeper = SessionKeeper(self.slots.table, self.watch, lambda: 0, {3: "web", 4: "dns"}, lambda: None)
        self.routes = routes(Sessions(keeper, NAT, EPOCHS))
        self.loop = asyncio.new_event_loop()
        self.server = HttpServer(lambda request: _respond(self.routes, request))

    def put(self, slot: int, state: SessionState = SessionState.EST, **fields: Any) -> None:
        self.slots.put(slot, state, now=now_tick(), **fields)

    async def serve(self, ready: Callable[[], None], end: asyncio.Event) -> None:
        await self.server.start(self.path)
        watching = asyncio.create_task(self.watch.run())
        ready()
        await end.wait()
        watching.cancel()
        await self.server.stop()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(watch_module, "PERIOD_S", 0.01)
    monkeypatch.setenv("ANYLB_SOCKET", str(tmp_path / "socket"))
    node, ready, end = Node(tmp_path / "socket"), threading.Event(), asyncio.Event()
    thread = threading.Thread(target=node.loop.run_until_complete, args=(node.serve(ready.set, end),))
    thread.start()
    assert ready.wait(60)
    yield node
    node.loop.call_soon_threadsafe(end.set)
    thread.join(60)
    node.loop.close()


def test_list(node: Node, run: Run) -> None:
    node.put(7, SessionState.SYN)
    node.put(8, client=IPv6Address("2001:db8::7"), flags=TagFlag.SYNACK_SEEN, service_slot=4)
    node.put(50_000, protocol=17, client=IPv4Address("192.0.3.1"), service_slot=4)
    out, err = run("session", "list")
    assert err == "3 sessions\n"
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["half-open", "tcp", "web"],
        ["established", "tcp", "dns"],
        ["established", "udp", "dns"],
    ]
    assert "192.0.2.7:41000       > 10.99.0.1:443         10.255.0.0:32775      > 10.9.0.11:8443" in out
    assert "[2001:db8::7]:41000   > [2001:db8:99::1]:443  [fd00:ff::]:32776     > [fd00:9::11]:8443" in out
    assert run("session", "list", "--service", "dns", "--client", "192.0.0.0/16")[0].count("\n") == 1
    found = json.loads(run("session", "list", "--state", "established", "-o", "json")[0])["sessions"]
    assert [one["slot"] for one in found] == [8, 50_000]
    assert json.loads(run("session", "list", "--state", "closed", "-o", "json")[0]) == {"sessions": []}
    assert run("session", "list", "--limit", "1")[1] == "1 sessions\n"
    assert run("session", "list", "--backend", "[fd00:9::11]:8443")[1] == "1 sessions\n"
    assert run("session", "list", "--service", "wep", code=1)[1].startswith("lbctl: wep is not a NAT service")


def test_all_pages_of_a_list_arrive(node: Node, run: Run) -> None:
    for slot in range(0, SLOTS, 64):
        node.put(slot)
    found = json.loads(run("session", "list", "-o", "json")[0])["sessions"]
    assert [one["slot"] for one in found] == list(range(0, SLOTS, 64))
    assert run("session", "list", "--limit", "700")[1] == "700 sessions\n"


@pytest.mark.parametrize("epoch", EPOCHS)
def test_show(node: Node, run: Run, epoch: Epoch) -> None:
    slot = nat_row(epoch, FLOW) * WAYS + 5
    node.put(slot, idle=2, flags=TagFlag.SYNACK_SEEN)
    found = json.loads(run("session", "show", "tcp,192.0.2.7:41000,10.99.0.1:443", "-o", "json")[0])
    assert (found["slot"], found["row"], found["state"]) == (slot, nat_row(epoch, FLOW), "established")
    assert json.loads(run("session", "show", found["nat"], "-o", "json")[0])["client"] == "192.0.2.7:41000"
    assert run("session", "list", "--pool", "10.255.0.0/31")[1] == "1 sessions\n"
    assert run("session", "list", "--pool", "10.255.0.2/31")[1] == "0 sessions\n"
    text = run("session", "show", str(slot))[0]
    assert re.search(
        r"state     established\nidle      \d+ s\nflags     synack_seen\nclient    192.0.2.7:41000\n", text
    )
    error = run("session", "show", str(slot + 1), code=1)[1]
    assert error == (
        f"lbctl: there is no session of {slot + 1} on this node; `lbctl explain` shows which node owns it\n"
    )


def test_kill(node: Node, run: Run) -> None:
    for slot in range(6):
        node.put(slot, SessionState.CLOSED if slot == 5 else SessionState.EST, service_slot=3 + slot % 2)
    instead = "; name a service, longer prefixes, a backend or a state, or use --all\n"
    assert run("session", "kill", code=1)[1] == f"lbctl: this would close 5 of 5 sessions{instead}"
    assert run("session", "kill", "--service", "dns")[0] == "2 sessions closed\n"
    states = [json.loads(run("session", "show", str(slot), "-o", "json")[0])["state"] for slot in range(6)]
    assert states == ["established", "closed", "established", "closed", "established", "closed"]
    assert json.loads(run("session", "kill", "--all", "-o", "json")[0]) == {"ok": True, "closed": 3}
    assert run("session", "kill", "--all")[0] == "0 sessions closed\n"
    assert node.slots.loads[1, 0] == 0


def test_kill_by_short_prefixes_alone_needs_all(node: Node, run: Run) -> None:
    for slot in range(3):
        node.put(slot)
    node.put(4, client=IPv6Address("2001:db8::7"))
    instead = "; name a service, longer prefixes, a backend or a state, or use --all\n"
    for named, closed, options in (
        ("client 0.0.0.0/0", 3, ["--client", "0.0.0.0/0"]),
        ("client 128.0.0.0/1", 3, ["--client", "128.0.0.0/1"]),
        ("client ::/0", 1, ["--client", "::/0"]),
        ("pool fc00::/7", 1, ["--pool", "fc00::/7"]),
        ("client 0.0.0.0/0 and pool 8.0.0.0/5", 3, ["--client", "0.0.0.0/0", "--pool", "8.0.0.0/5"]),
    ):
        refused = run("session", "kill", *options, code=1)[1]
        assert refused == f"lbctl: {named} would close {closed} of 4 sessions{instead}"
    assert run("session", "kill", "--client", "::/0", "--service", "web")[0] == "1 sessions closed\n"
    assert run("session", "kill", "--client", "192.0.0.0/8")[0] == "3 sessions closed\n"
    node.put(5)
    assert run("session", "kill", "--client", "0.0.0.0/0", "--all")[0] == "1 sessions closed\n"


def test_watch(node: Node, run: Run) -> None:
    """What the agent itself closes is a change too."""
    node.put(9)
    node.put(10, service_slot=4)
    lines = follow(node.path, "/sessions/watch", service="web")
    assert next(lines)["services"] == {"3": "web", "4": "dns"}
    wait_for(lambda: node.slots.table.on_change, "the watch")
    run("session", "kill", "--all")
    (change,) = decode(next(lines), Names({3: "web"}))
    assert (change["slot"], change["before"], change["state"]) == (9, "established", "closed")
    assert change["cause"] == "closed"
    lines.close()
    wait_for(lambda: not node.slots.table.on_change, "the end of the watch")


def test_changes_are_printed_with_the_state_before() -> None:
    one = {"slot": 5, "row": 0, "before": "free", "state": "half-open", "flags": [], "idle_s": 0}
    assert line_of(one) == "free > half-open          slot 5, which has another session by now"
    assert line_of(one | {"cause": "handed_over"}).endswith("another session by now handed over")
    ends = {end: f"10.0.0.{i}:1" for i, end in enumerate(("client", "vip", "nat", "backend"))}
    assert line_of(one | ends | {"service": "web", "protocol": "tcp", "age_s": 1}).startswith(
        "free > half-open          tcp web          10.0.0.0:1            > 10.0.0.1:1 "
    )
