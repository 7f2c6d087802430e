# SPDX-License-Identifier: Apache-2.0
"""The relay as a process of its own, between pipes (this test is ExaBGP) and the agent's socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_for

from bgp.bfd.status import STATUS_NAME, BfdStatus, encode_statuses
from bgp.exabgp.helper_archive import MODULES, bfd_archive, relay_archive
from bgp.file_watch import replace_file
from bgp.relay.client import RelayClient
from bgp.relay.protocol import MAX_LINE_BYTES, REPLACED, DesiredRoutes, Goodbye, Snapshot, decode_report
from bgp.route import Route

PEER = "10.0.0.1"
VIP = Route.of("10.99.0.1/32", "10.0.0.11")
NEIGHBORS = json.dumps(
    [
        {
            "fsm": "ESTABLISHED",
            "duration": 5,
            "local": {"address": "10.0.0.11", "as": 65001, "families": {"ipv4 unicast": True}},
            "peer": {"address": PEER, "as": 65000},
            "families": ["ipv4 unicast"],
        }
    ]
)
NOBODY = 65534


def update(route: Route) -> str:
    content = {"attribute": {}, "announce": {"ipv4 unicast": {route.next_hop: [{"nlri": route.prefix}]}}}
    neighbor = {"address": {"peer": PEER}, "message": {"update": content}}
    return json.dumps({"exabgp": "5.0.0", "type": "update", "neighbor": neighbor})


class Running:
    """A relay, and this end of its pipes."""

    def __init__(self, directory: Path, agent_uid: int = 0) -> None:
        self.path = directory / "relay.sock"
        archive = directory / "relay.pyz"
        archive.write_bytes(relay_archive())
        argv = ["/usr/bin/python3", "-I", "-S", str(archive), "--socket", str(self.path), "--agent-uid", str(agent_uid)]
        self.allow = directory / "allow"
        self.allow.write_text("10.99.0.0/24\n10.254.0.11/32\n")
        argv += ["--allow", str(self.allow)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._buffer = b""

    def say(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def hears(self) -> str:
        """The next command from the relay."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                assert selector.select(5), "no command within 5 s"
                data = os.read(self.process.stdout.fileno(), 4096)
                assert data, "the relay ended"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def settle(self) -> None:
        """Answer the questions of a new relay: one neighbor, nothing learned, nothing announced."""
        assert [self.hears(), self.hears()] == ["reset", "version"]
        self.say("exabgp 5.0.15", "done")
        assert self.hears() == "show neighbor json"
        self.say(NEIGHBORS, "done")
        assert self.hears() == "show adj-rib in json"
        self.say("done")
        assert self.hears() == "show adj-rib out json"
        self.say("done")

    def connect(self) -> Agent:
        return Agent(self.path)


class Agent:
    """A plain connection to the relay."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")

    def report(self) -> Snapshot | Goodbye | None:
        """The next message; None at the end."""
        line = self.file.readline()
        return decode_report(line) if line else None

    def refusal(self) -> str:
        """Why it hung up; it must have."""
        last = None
        with contextlib.suppress(ConnectionResetError):
            while (message := self.report()) is not None:
                last = message
        assert isinstance(last, Goodbye)
        return last.reason


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    try:
        running.settle()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_wish_becomes_commands_and_the_answer_a_snapshot(relay: Running):
    agent = relay.connect()
    first = agent.report()
    assert isinstance(first, Snapshot)
    assert [(p.address, p.up, p.announced) for p in first.peers] == [(PEER, True, frozenset())]
    agent.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    assert relay.hears() == VIP.announce_command(PEER)
    relay.say("done")
    assert relay.hears() == "show adj-rib out json"
    route = {"nlri": {"prefix": VIP.prefix, "nexthop": VIP.next_hop}, "attributes": {}}
    relay.say(json.dumps({"peer": {"address": PEER}, "route": route}), "done")
    while not (snapshot := agent.report()).advertised:  # type: ignore[union-attr]
        pass
    assert isinstance(snapshot, Snapshot)
    assert snapshot.advertised == {VIP.prefix}


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"garbage\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b'{"desired": []}\n', "expected the keys"),
        (b'{"desired": [], "fallback": [], "announcers": [7]}\n', "announcers is not a list of prefixes"),
        (b'{"desired": [{"prefix": "x", "next_hop": "y"}], "fallback": []}\n', "route: prefix"),
        (DesiredRoutes((VIP, VIP), ()).encode(), "contains a prefix twice"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"x" * (MAX_LINE_BYTES + (1 << 17)), "line longer than"),
    ],
)
def test_nonsense_from_the_agent_is_told_and_changes_nothing(relay: Running, sent: bytes, why: str):
    agent = relay.connect()
    with contextlib.suppress(BrokenPipeError):
        agent.socket.sendall(sent)
    assert why in agent.refusal()
    # Had it taken anything of it, a command would come before this one.
    another = relay.connect()
    another.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    assert relay.hears() == VIP.announce_command(PEER)


def test_line_in_pieces_is_one_line(relay: Running):
    agent = relay.connect()
    for byte in DesiredRoutes((VIP,), ()).encode():
        agent.socket.sendall(bytes([byte]))
    assert relay.hears() == VIP.announce_command(PEER)


def test_newest_agent_wins_and_the_old_one_is_told(relay: Running):
    old, new = relay.connect(), relay.connect()
    assert old.refusal() == REPLACED
    assert isinstance(new.report(), Snapshot)


def test_agent_that_does_not_read_holds_up_nothing_and_gets_the_newest_in_the_end(relay: Running):
    agent = relay.connect()
    agent.report()
    routes = [Route.of(f"10.{i >> 8}.{i & 255}.0/24", "10.0.0.12") for i in range(4000)]
    # Far more than pipe and socket hold: it can only be taken in if the relay reads on.
    for route in routes:
        relay.say(update(route))
    agent.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    assert relay.hears() == VIP.announce_command(PEER), "and it still listens to the agent"
    messages = 0
    while True:
        snapshot = agent.report()
        messages += 1
        assert isinstance(snapshot, Snapshot)
        if len(snapshot.peers[0].routes) == len(routes):
            break
    assert messages < 50


def test_exabgp_that_does_not_read_holds_up_nothing(relay: Running):
    """A wish with one command larger than a pipe: the relay must go on reading ExaBGP and the agent."""
    large = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, i, 1 << 31] for i in range(5000)])
    agent = relay.connect()
    agent.report()
    agent.socket.sendall(DesiredRoutes((large,), ()).encode())
    learned = Route.of("10.254.0.12/32", "10.0.0.12")
    relay.say(update(learned))
    while not (snapshot := agent.report()).peers[0].routes:  # type: ignore[union-attr]
        pass
    assert isinstance(snapshot, Snapshot)
    assert relay.hears() == large.announce_command(PEER)


def test_ends_quietly_with_exabgp_and_on_sigterm(tmp_path: Path):
    for end in ("eof", "sigterm"):
        running = Running(tmp_path)
        running.settle()
        assert running.process.stdin is not None
        if end == "eof":
            running.process.stdin.close()
        else:
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(5) == 0


def test_only_root_and_the_agents_user_may_connect(tmp_path: Path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    for agent_uid, allowed in ((NOBODY, True), (12345, False)):
        running = Running(tmp_path, agent_uid)
        try:
            running.settle()
            wait_for(running.path.exists, "socket")
            code = (
                "import os, socket, sys\n"
                f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
                "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.makefile().readline())"
            )
            argv = [sys.executable, "-c", code, str(running.path)]
            said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout
            assert isinstance(decode_report(said.encode()), Snapshot if allowed else Goodbye)
            assert isinstance(running.connect().report(), Snapshot), "root may"
        finally:
            running.process.kill()
            running.process.wait()


def test_client_refuses_a_server_of_another_user(relay: Running):
    async def attempt(uids: set[int]) -> tuple[bool, str | None]:
        client = RelayClient(relay.path, uids)
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while not client.connected and (client.error or "").startswith("not connected"):
                await asyncio.sleep(0.01)
        task.cancel()
        return client.connected, client.error

    assert asyncio.run(attempt({os.getuid()})) == (True, None)
    connected, error = asyncio.run(attempt({NOBODY}))
    assert not connected
    assert f"served by uid {os.getuid()}, not by {NOBODY}" in (error or "")


@pytest.mark.parametrize("fresh", [True, False])
def test_client_repeats_a_wish_on_reconnecting_only_if_it_is_fresh(
    relay: Running, fresh: bool, monkeypatch: pytest.MonkeyPatch
):
    if not fresh:
        monkeypatch.setattr("bgp.relay.client.FRESH_S", 0.0)
    other = Route.of("10.99.0.2/32", "10.0.0.11")

    async def scenario() -> None:
        client = RelayClient(relay.path, {os.getuid()})
        client.send_desired([VIP], [])
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(5):
            while client.snapshot is None:
                await asyncio.sleep(0.01)
        if not fresh:
            client.send_desired([other], [])
        assert await asyncio.to_thread(relay.hears) == (VIP if fresh else other).announce_command(PEER)
        task.cancel()

    asyncio.run(scenario())


def test_client_gives_way_when_replaced(relay: Running):
    async def scenario() -> None:
        client = RelayClient(relay.path, {os.getuid()})
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(5):
            while not client.connected:
                await asyncio.sleep(0.01)
            other = relay.connect()
            while client.connected:
                await asyncio.sleep(0.01)
            assert client.error is not None
            assert REPLACED in client.error
            await asyncio.sleep(0.5)  # more than twice RETRY_S: it must not come back and replace the other
            assert not client.connected
        assert isinstance(other.report(), Snapshot)
        task.cancel()

    asyncio.run(scenario())


def test_what_the_bfd_process_sees_is_passed_on(relay: Running):
    agent = relay.connect()
    first = agent.report()
    assert isinstance(first, Snapshot)
    assert first.peers[0].bfd is None
    down = BfdStatus("down", 4.5, "the neighbor was silent for too long", 1000.0)
    for state in (BfdStatus("up", 3.5, "", 300.0, 900.0), down):
        replace_file(relay.path.with_name(STATUS_NAME), encode_statuses({PEER: state, "10.0.0.9": down}))
        report = agent.report()
        assert isinstance(report, Snapshot)
        assert report.peers[0].bfd == state
    relay.path.with_name(STATUS_NAME).write_text("nonsense")
    report = agent.report()
    assert isinstance(report, Snapshot)
    assert report.peers[0].bfd is None


@pytest.mark.parametrize(("helper", "pack"), [("relay", relay_archive), ("bfd", bfd_archive)])
def test_archive_needs_nothing_but_the_standard_library(helper: str, pack: Callable[[], bytes], tmp_path: Path):
    archive = tmp_path / "helper.pyz"
    archive.write_bytes(pack())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); __import__('bgp.' + sys.argv[2] + '.process'); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'})); "
        "print(*sorted(name for name in sys.modules if name.startswith('bgp.')))"
    )
    argv = ["/usr/bin/python3", "-I", "-S", "-c", code, str(archive), helper]
    foreign, ours = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert foreign == "bgp"
    assert ours.split() == sorted(
        f"bgp/{name}".removesuffix("/__init__").replace("/", ".") for name in MODULES[helper] if name != "__init__"
    )
