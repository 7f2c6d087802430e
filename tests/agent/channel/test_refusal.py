# SPDX-License-Identifier: Apache-2.0
"""What is not accepted: each reason has its counter, nothing of it causes an answer, and a node's fault has a line."""

import random
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from support.channel_network import CLUSTER, KEY, Datagram, Network, address, state

from agent.channel.channel import Channel
from agent.channel.counter import Count
from agent.channel.message import MAX_BYTES, Authenticator, Kind, Message, parse
from agent.channel.problem import MAX_KEPT, MAX_LINES, MIN_DURATION_S, QUIET_S, Cause, ProblemLog

A, B, C, ROUTER = address(0), address(1), address(2), IPv4Address("10.0.0.1")
QUIET_COUNTS = {Count.RECEIVED, Count.SENT}


def met(services: int = 1) -> tuple[Network, Channel, list[Datagram]]:
    """Return A and B with a session, and all that B has sent to A."""
    network = Network()
    a, b = network.start(0), network.start(1)
    a.publish(state(1), network.now)
    b.publish(state(2, services), network.now)
    a.follow({B}, network.now)
    b.follow({A}, network.now)
    network.run(1)
    from_b = [one for one in network.sent if one.source == B]
    assert a.states == {B: state(2, services)}
    return network, a, from_b


def refused(a: Channel, data: bytes, source: IPv4Address, now: float) -> dict[Count, int]:
    """Hand a datagram to A, which must neither believe nor answer it; return what A counts."""
    before, states = a.counters.copy(), a.states
    assert a.receive(data, source, now) == []
    assert a.states is states
    assert a.step(now) == []
    return {key: count for key, count in (a.counters - before).items() if key not in QUIET_COUNTS}


def forged(**change: int | bytes) -> bytes:
    """Return a state of B for A, signed with the right key, in a session that does not exist."""
    message = Message(Kind.STATE, CLUSTER, int(B), int(A), 1, 2, 9, 0, 1, b"x")
    return Authenticator([KEY]).seal(message._replace(**change))  # type: ignore[arg-type]


def state_of(datagrams: list[Datagram]) -> bytes:
    return next(one.data for one in datagrams if parse(one.data).kind == Kind.STATE)  # type: ignore[union-attr]


def test_cut_damaged_and_foreign_datagrams() -> None:
    network, a, from_b = met()
    data = state_of(from_b)
    for length in range(len(data)):
        count = Count.MALFORMED if length < 60 else Count.BAD_MAC
        assert refused(a, data[:length], B, network.now) == {count: 1}
    assert refused(a, data + bytes(MAX_BYTES), B, network.now) == {Count.OVERSIZED: 1}
    assert refused(a, b"GET / HTTP/1.1\r\n" * 10, B, network.now) == {Count.MALFORMED: 1}
    damaged = bytearray(data)
    damaged[50] ^= 1
    assert refused(a, bytes(damaged), B, network.now) == {Count.BAD_MAC: 1}


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, Count.STALE_SESSION),
        ({"receiver": int(C)}, Count.WRONG_RECEIVER),
        ({"sender": int(C)}, Count.WRONG_SOURCE),
        ({"sender": int(A), "receiver": int(B)}, Count.WRONG_RECEIVER),
        ({"cluster": 4243}, Count.OTHER_CLUSTER),
        ({"version": 2}, Count.OTHER_VERSION),
        ({"parts": 0}, Count.MALFORMED),
        ({"kind": Kind.HELLO}, Count.MALFORMED),
    ],
)
def test_what_a_signature_does_not_excuse(change: dict[str, int], count: Count) -> None:
    network, a, _ = met()
    a.receive(forged(), B, network.now)
    a.step(network.now)  # one answer a second to a stale session: it shows the nonces
    assert refused(a, forged(**change), B, network.now) == {count: 1}


def test_every_replay_is_void() -> None:
    """In the session, in the next one, and to the node's successor: nothing changes, and little is answered."""
    network, a, _ = met(services=150)
    recorded = list(network.sent)
    b = network.channels[B]
    b.publish(state(3, 150), network.now)
    network.run(1)
    for restart in (None, 0, 1):
        if restart is not None:
            channel = network.start(restart)
            channel.publish(state(5 + restart), network.now)
            channel.follow({A, B}, network.now)
            network.run(40)
        a, b = network.channels[A], network.channels[B]
        known = (a.states, b.states)
        network.events.clear()
        network.sent.clear()
        for datagram in recorded:
            network.inject(datagram)
        network.run(60)
        assert (a.states, b.states) == known
        assert a.states is known[0]
        assert network.events == []
        assert sum(len(one.data) for one in network.sent) <= sum(len(one.data) for one in recorded)
        assert {parse(one.data).kind for one in network.sent} <= {Kind.HELLO_ACK, Kind.ACK}  # type: ignore[union-attr]


def test_nobody_speaks_for_another_with_the_cluster_key() -> None:
    """C has the key: its datagrams in B's name come from another address, and it does not know B's nonces."""
    network, a, from_b = met()
    assert refused(a, state_of(from_b), C, network.now) == {Count.WRONG_SOURCE: 1}
    assert refused(a, forged(sender_nonce=7, receiver_nonce=7), C, network.now) == {Count.WRONG_SOURCE: 1}
    spoofed = refused(a, forged(kind=Kind.ACK, payload=b""), B, network.now)
    assert spoofed == {Count.STALE_SESSION: 1}


def test_a_copied_hello_is_answered_with_as_many_bytes_and_changes_nothing() -> None:
    network, a, _ = met()
    b = network.channels[B]
    hello = next(one for one in network.sent if parse(one.data).kind == Kind.HELLO)  # type: ignore[union-attr]
    victim = network.channels[hello.destination]
    for _ in range(10):
        victim.receive(hello.data, hello.source, network.now)
    answers = victim.step(network.now)
    assert [(to, len(data)) for to, data in answers] == [(hello.source, len(hello.data))] * 10
    a.publish(state(8), network.now)
    network.sent.clear()
    network.run(0.01)
    assert b.states == {A: state(8)}
    assert len(network.sent) == 2


def test_an_unreadable_state_leaves_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network, a, _ = met()
    monkeypatch.setattr("agent.channel.channel.encode", lambda state: b"\x01\x00\x02\x1b[")
    network.channels[B].publish(state(9), network.now)
    network.run(5)
    assert a.states == {B: state(2)}
    assert a.counters[Count.BAD_STATE] == 1
    assert a.problems(network.now) == (
        "the state of 10.0.0.12 cannot be read (EPOCHS is empty or missing): install the same release on all nodes",
    )
    monkeypatch.undo()
    network.channels[B].publish(state(10), network.now)
    network.run(1)
    assert a.states == {B: state(10)}
    assert a.problems(network.now) == ()


# Problems


def start_wrong(keys: tuple[bytes, ...] = (KEY,), cluster: int = CLUSTER) -> tuple[Network, Channel, Channel]:
    network = Network()
    a, b = network.start(0), network.start(1, keys, cluster)
    a.follow({B}, network.now)
    b.follow({A}, network.now)
    network.run(5)
    return network, a, b


def test_another_key_is_named_until_it_is_the_same() -> None:
    network, a, b = start_wrong(keys=(b"other",))
    assert a.counters[Count.BAD_MAC] > 1
    assert a.problems(network.now) == ("10.0.0.12 signs with another key: give all nodes the same members.key_file",)
    assert a.states == {}
    b = network.start(1)
    b.follow({A}, network.now)
    b.publish(state(2), network.now)
    network.run(31)
    assert a.problems(network.now) == b.problems(network.now) == ()
    assert a.states == {B: state(2)}


def test_another_cluster_is_named_on_both() -> None:
    network, a, b = start_wrong(cluster=4243)
    assert a.problems(network.now) == (
        "10.0.0.12 speaks for cluster 4243, this node for cluster 4242: give both nodes the same cluster, or take it "
        "out of members.static",
    )
    assert b.problems(network.now)[0].startswith("10.0.0.11 speaks for cluster 4242, this node for cluster 4243: ")


def test_another_version_is_named() -> None:
    network, a, _ = met()
    a.receive(forged(version=2), B, network.now)
    assert a.problems(network.now) == (
        "10.0.0.12 speaks version 2 of the channel, this node version 1: install the same release on all nodes",
    )


def test_an_answer_from_another_address_is_named() -> None:
    network = Network()
    a, b = network.start(0), network.start(1)
    a.follow({B}, network.now)
    b.follow({A}, network.now)
    for _, data in b.step(network.now):
        a.receive(data, ROUTER, network.now)
    assert a.problems(network.now) == (
        "datagrams of 10.0.0.12 arrive from 10.0.0.1: exempt UDP between nodes from NAT on the path",
    )


def test_a_node_that_no_router_advertises_is_named_after_a_while() -> None:
    network = Network()
    a, b = network.start(0), network.start(1)
    b.follow({A}, network.now)
    network.run(MIN_DURATION_S - 10)
    assert a.problems(network.now) == ()
    network.run(100)
    assert a.problems(network.now) == (
        "10.0.0.12 has this cluster's key and sends to this node, but no router advertises it here: check its BGP "
        "sessions and this node's, or add it to members.static",
    )
    a.follow({B}, network.now)
    network.run(31)
    assert a.problems(network.now) == ()


def test_a_problem_ends_a_minute_after_its_cause() -> None:
    network, a, _ = start_wrong(keys=(b"other",))
    network.stop(1)
    network.run(QUIET_S - 6)
    assert len(a.problems(network.now)) == 1
    network.run(6)
    assert a.problems(network.now) == ()


def test_strangers_without_the_key_cause_no_lines() -> None:
    network, a, _ = met()
    other = Authenticator([b"other"])
    for number in range(100):
        unknown = IPv4Address("203.0.113.0") + number
        message = Message(Kind.HELLO, CLUSTER, int(unknown), int(A), 1, 0)
        assert refused(a, other.seal(message), unknown, network.now) == {Count.BAD_MAC: 1}
        message = message._replace(cluster=1, version=number % 2 + 1)
        refused(a, other.seal(message), unknown, network.now)
    assert a.problems(network.now) == ()


def test_problems_are_bounded() -> None:
    log = ProblemLog()
    for number in range(1000):
        log.add(Cause.KEY, number, 10.0)
    lines = log.lines(11.0)
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == f"{MAX_KEPT - MAX_LINES} more problems between this node and others: mend those above first"


Change = Callable[[random.Random, bytes], bytes]
CHANGES: dict[str, Change] = {
    "cut": lambda rng, data: data[: rng.randrange(len(data))],
    "extended": lambda rng, data: data + rng.randbytes(rng.randrange(1, 1400)),
    "bit": lambda rng, data: (int.from_bytes(data, "big") ^ 1 << rng.randrange(8 * len(data))).to_bytes(
        len(data), "big"
    ),
    "random": lambda rng, data: b"LBCH" + rng.randbytes(rng.randrange(1300)),
    "joined": lambda rng, data: data[: rng.randrange(len(data))] + data[rng.randrange(len(data)) :],
}


@pytest.mark.parametrize("name", CHANGES)
def test_no_changed_datagram_is_accepted(name: str) -> None:
    network, a, from_b = met(services=150)
    rng = random.Random(name)
    genuine = {one.data for one in from_b}
    for _ in range(500):
        data = CHANGES[name](rng, rng.choice(from_b).data)
        if data not in genuine:
            counts = refused(a, data, B, network.now)
            assert sum(counts.values()) == 1
            assert counts.keys() <= {
                Count.MALFORMED,
                Count.OVERSIZED,
                Count.BAD_MAC,
                Count.OTHER_VERSION,
                Count.OTHER_CLUSTER,
            }
