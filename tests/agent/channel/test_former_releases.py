# SPDX-License-Identifier: Apache-2.0
"""Bytes that former releases have sent, beside this one: read as they were meant, and what a former reader finds now.

recorded/wire.json has them, each made by the encoders of the commit that it names, of the values below. A release whose
encoders differ gets an entry; bytes that are there never change.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from support.channel_network import Network, address

from agent.channel import overview, state, trace
from agent.channel.counter import Count
from agent.channel.message import Authenticator, Kind, Message, parse
from agent.model import Flow, LocalSocket, State
from bpf.layout.echo import EchoFlag, EchoKind, EchoMessage

RECORDS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded/wire.json").read_text())
KEY = b"0123456789abcdef"
B1, B2, B3 = (IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13))
STATE = state.NodeState(
    boot=(1 << 63) + 5,
    version=9,
    release="0.2.0",
    ready=True,
    epochs=(0x11, 0x22),
    shares={
        state.ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443): state.StateShare(100, 40, State.UP, True),
        state.ServiceEndpoint(IPv4Address("192.0.2.11"), "tcp", 0): state.StateShare(10_000, 10_000, State.UP, False),
        state.ServiceEndpoint(IPv6Address("2001:db8::53"), "udp", 53): state.StateShare(50, 0, State.DRAINING, True),
    },
    unreachable=(B3,),
    reads_claims=True,
    gives_overview=True,
)
STATES = {
    "the first channel": replace(STATE, release="0.1.0", reads_claims=False, gives_overview=False),
    "before overviews": replace(STATE, release="0.1.0", gives_overview=False),
    "0.2.0": STATE,
}
FLOW = Flow("tcp", IPv4Address("198.51.100.7"), 40_000, IPv4Address("192.0.2.10"), 443)
TRACE_REQUEST = trace.TraceRequest(7, FLOW, True, 1, B3)
TRACE_REPLY = trace.TraceReply(
    7, "forward_first", B3, 2, (B2, B3), LocalSocket.NONE, True, True, 0x11, frozenset({B2})
)  # fmt: skip
OVERVIEW = overview.Overview(
    7, State.DRAINING, "warning", 5_000, True, True, False, 0x11, 21, 22, overview.Count(1, 2), overview.Count(3, 4),
    overview.Count(5, 6), 2, "10.0.0.1 down", overview.Load(1, 2, 3, 4, 5, 6),
)  # fmt: skip
QUESTION = EchoMessage(EchoKind.QUESTION, 4242, 77)
ANSWER = EchoMessage(EchoKind.ANSWER, 4242, 77, EchoFlag(3), 250, 9, (0x11, 0x22), 21, 22)


def recorded(*names: str) -> pytest.MarkDecorator:
    """Run a test for each recorded message of these names."""
    found = [(one["name"], name, bytes.fromhex(data)) for one in RECORDS for name, data in one["messages"].items()]
    cases = [case for case in found if case[1] in names]
    assert {case[1] for case in cases} == set(names)
    return pytest.mark.parametrize(("release", "name", "data"), cases, ids=[f"{case[0]}-{case[1]}" for case in cases])


def message_of(data: bytes) -> Message:
    assert Authenticator([KEY]).accepts(data), "the signature is as it was"
    found = parse(data)
    assert isinstance(found, Message)
    return found


READ: dict[str, tuple[Kind, Callable[[bytes], Any], Any]] = {
    "trace_request": (Kind.TRACE_REQUEST, trace.decode_request, TRACE_REQUEST),
    "trace_reply": (Kind.TRACE_REPLY, trace.decode_reply, TRACE_REPLY),
    "overview_request": (Kind.OVERVIEW_REQUEST, overview.decode_request, 7),
    "overview_reply": (Kind.OVERVIEW_REPLY, overview.decode_reply, OVERVIEW),
}


@recorded("state")
def test_the_state_of_a_former_release_is_read(release: str, name: str, data: bytes) -> None:
    found = message_of(data)
    assert found == Message(Kind.STATE, 4242, int(B2), int(B1), 2, 3, 9, 0, 1, found.payload)
    assert state.decode(found.payload) == STATES[release]


@recorded(*READ)
def test_what_a_former_release_asks_and_answers_is_read(release: str, name: str, data: bytes) -> None:
    kind, decode, value = READ[name]
    found = message_of(data)
    assert found.kind == kind
    assert decode(found.payload) == value


@recorded("echo_question", "echo_answer")
def test_echoes_are_the_same_in_all_releases(release: str, name: str, data: bytes) -> None:
    one = QUESTION if name == "echo_question" else ANSWER
    assert EchoMessage.unpack(data) == one
    assert one.pack() == data


@recorded("state", "overview_reply")
def test_a_former_reader_finds_what_it_knows_where_it_was(release: str, name: str, data: bytes) -> None:
    """It skips what comes after it, and flags that it does not know."""
    payload = message_of(data).payload
    if name == "state":
        assert state.encode(STATES[release]) == payload
    else:
        now = overview.encode_reply(replace(OVERVIEW, tcp=overview.Tcp(8, 9)))
        assert now[:4] + bytes([now[4] & 7]) + now[5 : len(payload)] == payload
        assert len(now) == len(payload) + 16


def test_a_node_of_a_former_release_joins_the_cluster() -> None:
    """Its state, in the session of today's channel, makes it a member's; it publishes no overview, and gets none."""
    network = Network()
    a, b = network.start(0), network.start(1)
    former = STATES["the first channel"]
    a.publish(STATE, network.now)
    b.publish(former, network.now)
    a.follow({address(1)}, network.now)
    b.follow({address(0)}, network.now)
    network.run(1)
    assert a.states == {address(1): former}
    assert not a.states[address(1)].gives_overview
    assert a.counters[Count.OTHER_VERSION] == 0


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_of_the_channel_is_refused_with_a_line(version: int) -> None:
    network = Network()
    a = network.start(0, keys=[KEY])
    a.follow({B2}, network.now)
    a.step(network.now)
    (data,) = [bytes.fromhex(one["messages"]["state"]) for one in RECORDS[-1:]]
    body = bytearray(data[:-16])
    body[4] = version
    sealed = Authenticator([KEY]).seal(message_of(data)._replace(version=version))
    assert sealed[:-16] == body
    assert a.receive(sealed, B2, network.now) == []
    assert a.states == {}
    assert a.counters[Count.OTHER_VERSION] == 1
    assert a.step(network.now) == [], "nothing of it causes an answer"
    step = "this node version 1: install the same release on all nodes"
    assert a.problems(network.now) == (f"10.0.0.12 speaks version {version} of the channel, {step}",)
