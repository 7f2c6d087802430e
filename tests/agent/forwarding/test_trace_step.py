# SPDX-License-Identifier: Apache-2.0
"""What this node does with a packet: the facts reach the rule, and what happens outside of the rule."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.channel.trace import TraceReply, TraceRequest
from agent.forwarding.trace_step import FlowFacts, next_step, reason
from agent.model import Flow, LocalSocket
from bpf.layout.counter import Counter

A, B, C, D = (IPv4Address("10.0.0.11") + i for i in range(4))
FLOW = Flow("tcp", IPv4Address("192.0.2.7"), 41_000, IPv4Address("10.99.0.1"), 443)
LATER, SYN = TraceRequest(1, FLOW, opens=False), TraceRequest(1, FLOW, opens=True)
NONE: frozenset[IPv4Address] = frozenset()
ONLY_B = frozenset({B})
FACTS = FlowFacts(
    epoch=5,
    chain=(A, B, C),
    up=True,
    grace=False,
    reachable=frozenset({A, B, C}),
    silent=NONE,
    awaited=NONE,
    unmetered=1,
    drop_no_member=False,
)


def step(
    own: IPv4Address, request: TraceRequest, socket: LocalSocket = LocalSocket.NONE, **changed: object
) -> TraceReply:
    return next_step(own, request, replace(FACTS, **changed), socket)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "event", "to", "hop"),
    [
        (step(D, SYN), "forward_first", A, 1),
        (step(A, SYN), "deliver_owner", None, 0),
        (step(B, LATER, LocalSocket.CONNECTION), "deliver_socket", None, 0),
        (step(B, LATER, LocalSocket.LISTENER), "forward_first", A, 1),
        (step(B, LATER, LocalSocket.UNKNOWN), "forward_first", A, 1),
        (step(B, LATER, LocalSocket.TIME_WAIT), "forward_first", A, 1),
        (step(B, replace(LATER, hop=1, prev=D), LocalSocket.TIME_WAIT), "deliver_time_wait", None, 0),
        (step(A, replace(LATER, hop=1, prev=D)), "forward_again", B, 2),
        (step(B, replace(SYN, hop=1, prev=D), up=False), "forward_again", A, 2),
        (step(C, replace(LATER, hop=3, prev=B)), "deliver_chain_end", None, 0),
        (step(C, replace(LATER, hop=3, prev=B), grace=True), "drop_grace", None, 0),
        (step(D, SYN, reachable=frozenset({B, C})), "forward_first", B, 1),
        (step(B, SYN, silent=frozenset({A}), reachable=frozenset({B, C})), "deliver_owner", None, 0),
        (step(A, LATER, chain=(A, B), silent=ONLY_B, awaited=ONLY_B, reachable=NONE), "drop_silent", None, 0),
        (step(A, LATER, chain=(A,)), "deliver_only_node", None, 0),
        (step(A, LATER, chain=()), "pass_no_member", None, 0),
        (step(A, LATER, chain=(), drop_no_member=True), "drop_no_member", None, 0),
        (step(A, replace(SYN, hop=2, prev=B), chain=(), drop_no_member=True), "deliver_forwarded_syn", None, 0),
        (step(A, replace(SYN, flow=replace(FLOW, protocol="udp"))), "deliver_udp", None, 0),
        (step(A, SYN, nat_rows=(5,)), "forward_backend", None, 0),
        (step(B, LATER, LocalSocket.CONNECTION, nat_rows=(5,)), "forward_backend", None, 0),
        (step(A, LATER, LocalSocket.CONNECTION, chain=(A,), nat_rows=(5,)), "forward_backend", None, 0),
        (step(D, SYN, nat_rows=(5,)), "forward_first", A, 1),
        (step(C, replace(LATER, hop=3, prev=B), nat_rows=(5,)), "reply_reset", None, 0),
        (step(C, replace(LATER, hop=3, prev=B), grace=True, nat_rows=(5,)), "drop_grace", None, 0),
    ],
)  # fmt: skip
def test_the_rule_gets_what_the_program_knows(reply: TraceReply, event: str, to: IPv4Address | None, hop: int) -> None:
    assert (reply.event, reply.to, reply.hop) == (event, to, hop)
    assert reason(reply.event)


def test_the_reply_carries_the_facts() -> None:
    facts = replace(FACTS, grace=True, silent=frozenset({A}), awaited=frozenset({A}), reachable=frozenset({B}))
    assert next_step(B, replace(LATER, number=9), facts, LocalSocket.LISTENER) == TraceReply(
        number=9,
        event="drop_silent",
        chain=(A, B, C),
        socket=LocalSocket.LISTENER,
        up=True,
        grace=True,
        epoch=5,
        unreachable=frozenset({C}),
        silent=frozenset({A}),
        awaited=frozenset({A}),
    )


def test_this_node_itself_is_not_unreachable() -> None:
    """Its own entry has no MAC: nothing is ever sent to it."""
    assert step(B, LATER, reachable=frozenset({A, C})).unreachable == NONE


@pytest.mark.parametrize("make", [lambda: SYN, lambda: LATER])
def test_a_denied_client_is_dropped_everywhere(make: Callable[[], TraceRequest]) -> None:
    denied = [IPv4Network("198.51.100.0/24"), IPv4Network("192.0.2.0/24")]
    reply = next_step(D, make(), FACTS, LocalSocket.NONE, denied)
    assert (reply.event, reply.to, reply.hop) == ("drop_denied", None, 0)
    assert reason(reply.event) == "the client's address is on its deny list"
    assert next_step(D, make(), FACTS, LocalSocket.NONE, denied[:1]).to == A


def test_without_a_service_the_kernel_answers() -> None:
    reply = next_step(A, SYN, None, LocalSocket.LISTENER)
    assert reply == TraceReply(1, Counter.PASS_NO_SERVICE.name.lower(), socket=LocalSocket.LISTENER)


def test_the_event_of_a_later_release_has_no_reason() -> None:
    assert reason("deliver_by_telepathy") == ""
