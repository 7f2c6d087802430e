# SPDX-License-Identifier: Apache-2.0
"""The relay's reports: applied by the agent they give the relay's state, and what is equal stays the same object."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.status import BfdStatus
from bgp.errors import BgpError
from bgp.relay import report
from bgp.relay.agent_connection import AgentConnection
from bgp.relay.protocol import MAX_REPORT_BYTES, Goodbye, Peer, Snapshot, encode_message
from bgp.relay.report import ReportReader, encode_changes, encode_goodbye
from bgp.route import Route

ONE, TWO = "10.0.0.1", "10.0.0.2"
A, B, C = (Route.of(f"10.254.0.{i}/32", f"10.0.0.{i}", [[65001, 1, i]], [65000]) for i in (1, 2, 3))
VIP = Route.of("10.99.0.1/32", "10.0.0.11", communities=[[65000, 9]], med=0, as_path=[65001, 65001])
STATE = Snapshot((Peer(ONE, True, 1.5, True, (A, B), (VIP,)), Peer(TWO, True, 2.5, False, (A, C))))


def read(reader: ReportReader, *lines: bytes) -> Snapshot:
    """The snapshot after a batch; AssertionError if it ends too early or not at all."""
    *before, last = [reader.receive(line) for line in lines]
    assert before == [None] * len(before)
    assert isinstance(last, Snapshot)
    return last


def content(snapshot: Snapshot) -> object:
    """What a snapshot contains: the order of routes means nothing."""
    peers = [
        (replace(peer, routes=(), adj_rib_out=()), set(peer.routes), set(peer.adj_rib_out), len(peer.routes))
        for peer in snapshot.peers
    ]
    return peers, snapshot.error, snapshot.deadman, snapshot.held


def objects(snapshot: Snapshot) -> dict[tuple[str, str, Route], int]:
    """The identity of each route, by peer, Adj-RIB and value."""
    return {
        (peer.address, rib, route): id(route)
        for peer in snapshot.peers
        for rib, routes in (("in", peer.routes), ("out", peer.adj_rib_out))
        for route in routes
    }


def variant(prefix: int, number: int) -> Route:
    """One of the routes to a prefix, long enough that a few fill a socket."""
    text = f"10.254.0.{prefix}/32" if prefix else "2001:db8::1/128"
    return Route.of(text, "10.0.0.12", [[1, prefix, i] for i in range(20 * number)], communities=[[1, 2]], med=number)


def some_routes(numbers: list[int]) -> tuple[Route, ...]:
    return tuple(variant(prefix, number) for prefix, number in enumerate(numbers) if number)


ROUTES = st.lists(st.integers(0, 2), max_size=5).map(some_routes)
BFD = (None, BfdStatus("up", 3.5), BfdStatus("down", 4.5, "silent", 300.0, 900.0, "no route"))
PEERS = st.builds(
    lambda address, flag, bfd, learned, out: Peer(
        address,
        flag,
        1.25 * flag,
        not flag,
        learned,
        out,
        BFD[bfd],
        frozenset(("ipv4", "ipv6")[bfd:]),
        "10.0.0.11" * flag,
    ),
    st.sampled_from([ONE, TWO, "fe80::1%eth1"]),
    st.booleans(),
    st.integers(0, 2),
    ROUTES,
    ROUTES,
)
STATES = st.builds(
    lambda peers, flag: Snapshot(tuple(peers[a] for a in sorted(peers)), "refused" if flag else None, flag, not flag),
    st.lists(PEERS, max_size=3).map(lambda peers: {peer.address: peer for peer in peers}),
    st.booleans(),
)


@given(STATES, STATES, STATES)
def test_changes_applied_to_any_state_give_the_other(first: Snapshot, second: Snapshot, third: Snapshot) -> None:
    reader = ReportReader()
    seen = before = Snapshot()
    for state in (first, second, third):
        kept = objects(seen)
        seen = read(reader, *encode_changes(before, state))
        assert content(seen) == content(state)
        assert {key: number for key, number in objects(seen).items() if key in kept}.items() <= kept.items()
        assert len(list(encode_changes(state, seen))) == 1, "no difference is left"
        before = state


@given(st.lists(st.tuples(STATES, st.integers(0, 3000)), min_size=1, max_size=8))
def test_agent_that_reads_slowly_has_the_newest_state_when_it_has_read_all(steps: list[tuple[Snapshot, int]]) -> None:
    """The relay begins a batch when the last one is sent; the agent reads a number of bytes in each step."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it 4.5 kB
        theirs.setblocking(False)
        agent, reader = AgentConnection(ours), ReportReader()
        received = bytearray()
        snapshots = []

        def step(newest: Snapshot, count: int) -> bool:
            """One turn of the relay, then the agent reads; return whether anything came."""
            agent.send()
            if not agent.busy and agent.reported is not newest:
                agent.report(newest)
            data = b""
            with contextlib.suppress(BlockingIOError):
                data = theirs.recv(count) if count else b""
            received.extend(data)
            *lines, received[:] = received.split(b"\n")
            for one in lines:
                if (report := reader.receive(bytes(one))) is not None:
                    assert isinstance(report, Snapshot)
                    snapshots.append(report)
            return bool(data)

        newest = Snapshot()
        for newest, count in steps:
            step(newest, count)
        while step(newest, 1 << 16) or agent.busy or agent.reported is not newest:
            pass
        states = [state for state, _ in steps]
        assert content(snapshots[-1]) == content(newest)
        assert all(content(seen) in map(content, states) for seen in snapshots), "and never half a state"


def test_what_waits_for_an_agent_that_does_not_read_is_bounded() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        agent = AgentConnection(ours)
        routes = tuple(Route(f"10.{i >> 8}.{i & 255}.0/24", "10.0.0.12", ((1, 2, 3),)) for i in range(20_000))
        agent.report(Snapshot((Peer(ONE, True, 1.0, True, routes),)))
        for _ in range(50):
            agent.send()
        assert agent.busy
        assert 0 < len(agent._unsent) < 100_000, "of more than 2 MB"


def test_unchanged_peer_is_the_same_object_and_so_are_the_routes_of_one_that_changes() -> None:
    reader = ReportReader()
    first = read(reader, *encode_changes(Snapshot(), STATE))
    one, two = STATE.peers
    changed = Snapshot((replace(one, eor=False), replace(two, routes=(A, replace(C, med=1)))), error="x")
    second = read(reader, *encode_changes(STATE, changed))
    assert content(second) == content(changed)
    assert second.peers[0].routes is first.peers[0].routes
    assert second.peers[0].adj_rib_out is first.peers[0].adj_rib_out
    assert second.peers[1].routes[0] is first.peers[1].routes[0]
    third = read(reader, *encode_changes(changed, replace(changed, error=None)))
    assert all(new is old for new, old in zip(third.peers, second.peers, strict=True))
    assert content(first) == content(STATE), "an earlier snapshot never changes"


def test_change_of_one_route_of_thousands_is_one_line() -> None:
    routes = tuple(Route.of(f"10.{i >> 8}.{i & 255}.0/24", "10.0.0.12") for i in range(2000))
    before = Snapshot((Peer(ONE, True, 1.0, True, routes),))
    withdrawn = Snapshot((Peer(ONE, True, 1.0, True, (*routes[:700], *routes[701:])),))
    changed = Snapshot((Peer(ONE, True, 1.0, True, (*routes[:700], replace(routes[700], med=5), *routes[701:])),))
    for after in (withdrawn, changed):
        assert len(list(encode_changes(before, after))) == 2, "the route, and the end of the batch"
        assert len(list(encode_changes(after, before))) == 2


def test_largest_route_of_a_bgp_message_fits_into_a_line() -> None:
    """65,535 bytes (RFC 8654): 4 for a community or an AS number, 12 for a large community."""
    for largest in (
        replace(A, communities=tuple((65535, 65535) for _ in range(65535 // 4))),
        replace(A, as_path=tuple((1 << 32) - 1 for _ in range(65535 // 4))),
        replace(A, large_communities=tuple(((1 << 32) - 1,) * 3 for _ in range(65535 // 12))),
    ):
        lines = list(encode_changes(Snapshot(), Snapshot((Peer(ONE, True, 1.0, True, (largest,)),))))
        assert max(map(len, lines)) < MAX_REPORT_BYTES


def line(**changed: Any) -> bytes:
    """A valid line that adds a peer, with some values replaced."""
    message = {"type": "peer", "peer": "10.0.0.9", "state": "up", "since": 1.0, "eor": True, "families": ["ipv4"]}
    message |= {"local_address": "10.0.0.11", "bfd": None, "why": "", "retry_s": None, "foreign": 0}
    return json.dumps(message | changed).encode()


MALFORMED = [
    b"garbage",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"peers": [], "error": null, "deadman": false}',
    b'{"type": ["peer"]}',
    b'{"type": "end", "error": null}',
    b'{"type": "goodbye"}',
    line(peer=["10.0.0.9"]),
    line(state="sideways"),
    line(since="soon"),
    line(since=float("nan")),
    line(since=10**400),
    line(families=7),
    line(local_address="here"),
    line(retry_s=10**400),
    line(retry_s=1e999),
    line(retry_s=True),
    line(peer="10.0.0.9\x1b[2J"),
    line(bfd={"state": "up", "since": 10**400, "diagnostic": "", "interval_ms": 1, "detection_ms": 1, "error": None}),
    line(bfd={"state": "up", "since": 1e999, "diagnostic": "", "interval_ms": 1, "detection_ms": 1, "error": None}),
    line(bfd=[]),
    line(type="route"),
    line(type="route", peer=ONE, rib="in"),
    line(type="route", peer=ONE, rib="in", route={"prefix": "10.0.0.1/24", "next_hop": "10.0.0.1"}),
    line(type="withdrawn", peer=ONE, rib="in", prefix=["10.254.0.1/32"]),
]
DOES_NOT_APPLY = [
    line(type="route", peer="10.0.0.9", rib="in", route=A.to_json()),
    line(type="route", peer=ONE, rib="both", route=A.to_json()),
    line(type="withdrawn", peer=ONE, rib="in", prefix="10.254.0.3/32"),
    line(type="withdrawn", peer=ONE, rib="out", prefix="10.254.0.1/32"),
    line(type="removed", peer="10.0.0.9"),
]


@pytest.mark.parametrize("sent", [*MALFORMED, *DOES_NOT_APPLY])
def test_malformed_line_and_one_that_does_not_apply_are_refused(sent: bytes) -> None:
    reader = ReportReader()
    read(reader, *encode_changes(Snapshot(), STATE))
    with pytest.raises(BgpError) as caught:
        reader.receive(sent)
    assert len(str(caught.value)) < 400
    assert reader.receive(line()) is None, "while a correct one is accepted"


def test_memory_is_bounded_whatever_the_relay_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_PEERS", 3)
    monkeypatch.setattr(report, "MAX_ROUTES", 2)
    reader = ReportReader()
    read(reader, *encode_changes(Snapshot(), STATE))
    reader.receive(line())
    with pytest.raises(BgpError, match="too many neighbors"):
        reader.receive(line(peer="10.0.0.10"))
    another, one_more, beyond = (
        line(type="route", peer=ONE, rib="in", route=variant(number, 1).to_json()) for number in (4, 5, 6)
    )
    reader.receive(another)
    reader.receive(one_more)
    with pytest.raises(BgpError, match="too many routes"):
        reader.receive(beyond)


def test_goodbye() -> None:
    assert ReportReader().receive(encode_goodbye("why")) == Goodbye("why")


def test_control_characters_are_escaped_wherever_text_is_expected() -> None:
    reader = ReportReader()
    reader.receive(line(families=["\x1b[2J"], why="\x1b[2J"))
    snapshot = reader.receive(encode_message({"type": "end", "error": "\r", "deadman": 0, "held": 0, "silent": 0}))
    assert isinstance(snapshot, Snapshot)
    (peer,) = snapshot.peers
    assert (peer.families, peer.why, snapshot.error) == ({"\\x1b[2J"}, "\\x1b[2J", "\\r")
