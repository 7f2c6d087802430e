# SPDX-License-Identifier: Apache-2.0
"""The relay process between ExaBGP's pipes, which the test plays, and the agent's socket."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.exabgp_model import session_event
from support.exabgp_model import update as update_of_many
from support.relay_process import NEIGHBORS, PEER, VIP, RelayProcess, update
from support.waiting import wait_for

from bgp.bfd.status import STATUS_NAME, BfdStatus, encode_statuses
from bgp.file_watch import replace_file
from bgp.relay.protocol import MAX_DESIRED_BYTES, REPLACED, AgentStop, DesiredRoutes, Snapshot
from bgp.route import Route

NOBODY = 65534


def test_desired_routes_become_commands_and_the_answer_a_snapshot(relay: RelayProcess):
    agent = relay.connect()
    first = agent.receive()
    assert isinstance(first, Snapshot)
    assert [(p.address, p.up, p.announced) for p in first.peers] == [(PEER, True, frozenset())]
    agent.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    assert relay.command() == VIP.announce_command(PEER)
    relay.send("done")
    assert relay.command() == "show adj-rib out json"
    route = {"nlri": {"prefix": VIP.prefix, "nexthop": VIP.next_hop}, "attributes": {}}
    relay.send(json.dumps({"peer": {"address": PEER}, "route": route}), "done")
    snapshot = agent.receive_until(lambda snapshot: snapshot.advertised)
    assert snapshot.advertised == {VIP.prefix}
    assert snapshot.peers[0].adj_rib_out == (VIP,)


MALFORMED = {
    b"\n": "not JSON",
    b"garbage\n": "not JSON",
    b"\xff\xfe\n": "not JSON",
    b"[]\n": "not a JSON object",
    b'{"desired": []}\n': "expected the keys",
    b'{"desired": [], "fallback": [], "announcers": [7]}\n': "announcers is not a list of prefixes",
    b'{"desired": [{"prefix": "x", "next_hop": "y"}], "fallback": []}\n': "route: prefix",
    DesiredRoutes((VIP, VIP), ()).encode(): "contains a prefix twice",
    b"[" * 100_000 + b"\n": "not JSON",
    b"x" * (MAX_DESIRED_BYTES + (1 << 17)): "line longer than",
}
NUMBERS = ["1e999", "-1e999", "NaN", "1" + "0" * 400, "-1", '"1"', "[" * 2000 + "]" * 2000]


def test_malformed_message_is_refused_with_a_reason_and_changes_nothing(relay: RelayProcess):
    for sent, reason in MALFORMED.items():
        agent = relay.connect()
        with contextlib.suppress(BrokenPipeError):
            agent.socket.sendall(sent)
        assert reason in agent.goodbye(), sent[:80]
    # If the relay had accepted any of it, another command would come first.
    another = relay.connect()
    another.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    assert relay.command() == VIP.announce_command(PEER)


def resident_kb(relay: RelayProcess) -> int:
    """Return the memory of the relay's process."""
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
def test_leak_of_20000_routes_costs_the_relay_no_memory(relay: RelayProcess):
    identity = Route.of("10.254.0.12/32", "10.0.0.12", [[65001, 1, 3]])
    agent = relay.connect()
    before = resident_kb(relay)
    leak = [Route(f"100.{number >> 8}.{number & 255}.0/24", "10.0.0.12") for number in range(20_000)]
    for first in range(0, len(leak), 100):
        relay.send(update_of_many(PEER, leak[first : first + 100]))
    relay.send(update(identity))
    (peer,) = agent.receive_until(lambda snapshot: snapshot.peers[0].routes).peers
    assert [route.prefix for route in peer.routes] == [identity.prefix]
    assert peer.foreign == 20_000
    assert resident_kb(relay) - before < 2_000, "with the routes it is 5 MB"


def test_numbers_out_of_range_from_exabgp_do_not_end_the_relay(relay: RelayProcess):
    agent, learned = relay.connect(), Route.of("10.254.0.12/32", "10.0.0.12", [[65001, 1, 3]])
    for number in NUMBERS:
        relay.send(
            NEIGHBORS.replace('"duration": 5', f'"duration": {number}'),
            NEIGHBORS.replace('"as": 65000', f'"as": {number}'),
            f'{{"exabgp": "5.0.0", "type": "state", "neighbor": {{"address": {{"peer": {number}}}, "state": "down"}}}}',
            update(VIP).replace(
                '"attribute": {', f'"attribute": {{"med": {number}, "as-path": {{"0": {{"value": [{number}]}}}},'
            ),
        )
    relay.send(update(learned))
    (peer,) = agent.receive_until(lambda snapshot: snapshot.peers[0].routes).peers
    assert (peer.address, peer.up, peer.routes) == (PEER, True, (learned,))


def test_text_of_a_router_reaches_agent_and_log_escaped(relay: RelayProcess):
    relay.send(session_event(PEER, "down", "\x1b[2J; next try within 1 s"))
    (peer,) = relay.connect().receive_until(lambda snapshot: not snapshot.peers[0].up).peers
    assert (peer.why, peer.retry_s) == (r"\x1b[2J", 1)


@pytest.mark.slow
def test_exabgp_that_stops_answering_is_silent_and_then_not(relay: RelayProcess):
    agent = relay.connect()
    agent.receive_until(lambda snapshot: snapshot.silent)
    relay.send("done")
    assert agent.receive_until(lambda snapshot: not snapshot.silent).error is None


def test_line_in_pieces_is_one_line(relay: RelayProcess):
    agent = relay.connect()
    for byte in DesiredRoutes((VIP,), ()).encode():
        agent.socket.sendall(bytes([byte]))
    assert relay.command() == VIP.announce_command(PEER)


def identity(number: int, version: int = 0) -> Route:
    """A route of some 3 kB of JSON: a socket holds less than 100 of them."""
    communities = [[65001, i, (1 << 31) + version] for i in range(100)]
    return Route.of(f"10.254.{number >> 8}.{number & 255}/32", "10.0.0.12", communities)


def test_state_larger_than_a_line_is_one_snapshot(relay: RelayProcess):
    learned = {identity(number) for number in range(300)}
    for route in learned:
        relay.send(update(route))
    relay.connect().receive_until(lambda snapshot: len(snapshot.peers[0].routes) == len(learned))
    snapshot = relay.connect().receive()
    assert isinstance(snapshot, Snapshot)
    assert set(snapshot.peers[0].routes) == learned, "the first one of a connection is complete"


def test_new_agent_replaces_the_old_one_which_gets_a_goodbye(relay: RelayProcess):
    old, new = relay.connect(), relay.connect()
    assert old.goodbye() == REPLACED
    assert isinstance(new.receive(), Snapshot)


def test_agent_that_is_replaced_while_it_receives_a_batch_leaves_nothing_behind(relay: RelayProcess):
    slow = relay.connect()
    for number in range(500):
        relay.send(update(identity(number)))
    slow.file.readline()  # and no more: the socket is full, and the batch has begun
    new = relay.connect()
    snapshot = new.receive_until(lambda snapshot: len(snapshot.peers[0].routes) == 500)
    assert set(snapshot.peers[0].routes) == {identity(number) for number in range(500)}
    relay.send(update(identity(7, version=1)))
    mark = new.lines
    new.receive_until(lambda snapshot: identity(7, version=1) in snapshot.peers[0].routes)
    assert new.lines == mark + 2, "the route and the end of the batch"


@pytest.mark.slow
def test_agent_that_does_not_read_blocks_nothing_and_gets_the_newest_state(relay: RelayProcess):
    agent = relay.connect()
    agent.receive()
    # Far more than pipe and socket hold: the relay must keep reading.
    for version in range(15):
        for number in range(100):
            relay.send(update(identity(number, version)))
    agent.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    assert relay.command() == VIP.announce_command(PEER), "and it still reads from the agent"
    newest = {identity(number, version=14) for number in range(100)}
    agent.receive_until(lambda snapshot: set(snapshot.peers[0].routes) == newest)
    assert agent.lines < 600, "of 1,500 changes: a socket full of them, the batch that it held up, and the next one"


def test_last_message_counts_although_the_agent_reads_no_more(relay: RelayProcess):
    """An agent that stops leaves what the relay still had to report to it."""
    agent = relay.connect()
    for number in range(500):
        relay.send(update(identity(number)))
    agent.file.readline()  # and no more: the relay holds the rest of the batch
    relay.process.send_signal(signal.SIGSTOP)
    agent.socket.sendall(DesiredRoutes((VIP,), ()).encode())
    agent.file.close()
    agent.socket.close()
    relay.process.send_signal(signal.SIGCONT)
    assert relay.command() == VIP.announce_command(PEER)


def test_exabgp_that_does_not_read_blocks_nothing(relay: RelayProcess):
    """A command larger than a pipe: the relay must keep reading from ExaBGP and the agent."""
    large = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, i, 1 << 31] for i in range(5000)])
    agent = relay.connect()
    agent.receive()
    agent.socket.sendall(DesiredRoutes((large,), ()).encode())
    learned = Route.of("10.254.0.12/32", "10.0.0.12")
    relay.send(update(learned))
    agent.receive_until(lambda snapshot: snapshot.peers[0].routes)
    assert relay.command() == large.announce_command(PEER)


def test_agent_that_stops_is_replaced_by_its_fallback_at_once(relay: RelayProcess):
    agent = relay.connect()
    fallback = Route.of("10.254.0.11/32", "10.0.0.11")
    agent.socket.sendall(DesiredRoutes((), (fallback,)).encode() + AgentStop().encode())
    agent.socket.close()
    assert relay.command() == fallback.announce_command(PEER)


def test_exits_with_0_with_exabgp_and_on_sigterm(tmp_path: Path):
    for end in ("eof", "sigterm"):
        running = RelayProcess(tmp_path)
        running.answer_first_commands()
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
        running = RelayProcess(tmp_path, agent_uid)
        try:
            running.answer_first_commands()
            wait_for(running.socket_path.exists, "socket")
            code = (
                "import os, socket, sys\n"
                f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
                "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.makefile().readline())"
            )
            argv = [sys.executable, "-c", code, str(running.socket_path)]
            line = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout
            assert json.loads(line)["type"] == ("peer" if allowed else "goodbye")
            assert isinstance(running.connect().receive(), Snapshot), "root may connect"
        finally:
            running.process.kill()
            running.process.wait()


@pytest.mark.slow
def test_snapshot_contains_the_status_of_the_bfd_process(relay: RelayProcess):
    agent = relay.connect()
    first = agent.receive()
    assert isinstance(first, Snapshot)
    assert first.peers[0].bfd is None
    down = BfdStatus("down", 4.5, "the neighbor was silent for too long", 1000.0)
    for state in (BfdStatus("up", 3.5, "", 300.0, 900.0), down):
        replace_file(relay.socket_path.with_name(STATUS_NAME), encode_statuses({PEER: state, "10.0.0.9": down}))
        report = agent.receive()
        assert isinstance(report, Snapshot)
        assert report.peers[0].bfd == state
    # A failure that BFD detects ends the session: the agent must not see the one without the other.
    replace_file(relay.socket_path.with_name(STATUS_NAME), encode_statuses({PEER: BfdStatus("init", 5.5)}))
    relay.send(session_event(PEER, "down"))
    closed = agent.receive_until(lambda snapshot: not snapshot.peers[0].up).peers[0]
    assert closed.bfd is not None
    assert closed.bfd.state == "init"
    relay.socket_path.with_name(STATUS_NAME).write_text("nonsense")
    report = agent.receive()
    assert isinstance(report, Snapshot)
    assert report.peers[0].bfd is None
