# SPDX-License-Identifier: Apache-2.0
"""The response of `lbctl explain --live`, and its text. Its walks are compared with a real cluster in
tests/cluster/node_agent/test_commands.py."""

import asyncio
import json
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest

from agent.channel.trace import TraceReply
from agent.cli.walk_display import print_walks
from agent.config import file
from agent.control.explain_live import Walking, explain_live
from agent.errors import AgentError
from agent.model import Flow, LocalSocket
from agent.node.tracer import Step

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 10.99.0.1, protocol: tcp, port: 443}
  - {name: dns, vip: 10.99.0.1, protocol: udp, port: 53, health: {port: 53}}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
CONFIG = file.parse(TEXT, "lb.yml")
A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))
WEB = "tcp,192.0.2.7:41000,10.99.0.1:443"
SENT_ON = TraceReply(
    1, "forward_first", B, 1, (B, A, C), up=True, epoch=5, silent=frozenset({C}), awaited=frozenset({C})
)
HELD = TraceReply(
    2, "deliver_socket", None, 0, (B, A, C), LocalSocket.CONNECTION, grace=True, epoch=5, unreachable=frozenset({A})
)


def asked(text: str, steps: Sequence[Step], at: str = "") -> tuple[dict[str, Any], list[tuple[bool, IPv4Address]]]:
    """Return the response, and what was walked: whether the packet opens a flow, and from where."""
    walked: list[tuple[bool, IPv4Address]] = []

    async def walk(flow: Flow, opens: bool, ingress: IPv4Address) -> Sequence[Step]:
        walked.append((opens, ingress))
        return steps

    return asyncio.run(explain_live(Walking(CONFIG, A, (A, B, C), walk), text, at)), walked


def test_a_tcp_flow_is_walked_by_a_later_packet_and_by_a_syn() -> None:
    response, walked = asked(WEB, [Step(A, 0, None, SENT_ON), Step(B, 1, A, HELD)])
    assert walked == [(False, A), (True, A)]
    assert (response["flow"], response["service"]) == ("tcp 192.0.2.7:41000 10.99.0.1:443", "web")
    assert [walk["packet"] for walk in response["walks"]] == [
        "a packet of an open connection",
        "a new connection (SYN)",
    ]
    assert json.loads(json.dumps(response))["walks"][0]["steps"] == [
        {
            "node": str(A), "hop": 0, "prev": None, "answers": True, "event": "forward_first",
            "why": "the next node of the chain is tried", "to": str(B), "socket": "none", "up": True, "grace": False,
            "epoch": 5, "chain": [str(B), str(A), str(C)], "unreachable": [], "silent": [str(C)], "awaited": [str(C)],
        },
        {
            "node": str(B), "hop": 1, "prev": str(A), "answers": True, "event": "deliver_socket",
            "why": "its connection is here", "to": None, "socket": "connection", "up": False, "grace": True,
            "epoch": 5, "chain": [str(B), str(A), str(C)], "unreachable": [str(A)], "silent": [], "awaited": [],
        },
    ]  # fmt: skip


def test_a_udp_flow_has_one_kind_of_packet() -> None:
    response, walked = asked("udp,192.0.2.7:41000,10.99.0.1:53", [], at=str(B))
    assert walked == [(True, B)]
    assert [walk["packet"] for walk in response["walks"]] == ["a datagram"]


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("nonsense", "", "is not a flow"),
        ("tcp,192.0.2.7:41000,10.99.0.1:80", "", "no service takes tcp 10.99.0.1:80"),
        (WEB, "10.0.0.99", "10.0.0.99 is no node that this one knows; `lbctl status` lists them"),
        (WEB, "b1", "b1 is no node"),
    ],
)
def test_what_cannot_be_walked_is_refused(text: str, at: str, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        asked(text, [], at)


def test_the_text_names_each_node_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    off = TraceReply(1, "no_data_path", socket=LocalSocket.LISTENER)
    steps = [Step(A, 0, None, SENT_ON), Step(B, 1, A, HELD), Step(C, 2, B, off), Step(C, 3, B, None)]
    print_walks(asked(WEB, steps)[0])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:11] == [
        "tcp 192.0.2.7:41000 10.99.0.1:443: service web",
        "",
        "a packet of an open connection",
        "  10.0.0.11 (from the router): forward_first to 10.0.0.12: the next node of the chain is tried",
        "    has no socket; takes new connections; chain 10.0.0.12 → 10.0.0.11 → 10.0.0.13 (silent, awaited)",
        "  10.0.0.12 (hop 1 from 10.0.0.11): deliver_socket: its connection is here",
        "    has the connection; takes no new connections; the row has just changed (grace); "
        "chain 10.0.0.12 → 10.0.0.11 (unreachable) → 10.0.0.13",
        "  10.0.0.13 (hop 2 from 10.0.0.12): no_data_path: its data path is off (xdp.mode): its kernel answers",
        "    has a listener, but not the connection",
        "  10.0.0.13 (hop 3 from 10.0.0.12): does not answer within 1 s; see `lbctl status` here and there",
        "",
    ]
    assert lines[11] == "a new connection (SYN)"


def test_what_a_later_release_adds_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_walks(asked(WEB, [Step(A, 0, None, TraceReply(1, "deliver_by_telepathy"))])[0])
    assert "  10.0.0.11 (from the router): deliver_by_telepathy\n    has no socket\n" in capsys.readouterr().out
