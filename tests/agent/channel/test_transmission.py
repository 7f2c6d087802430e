# SPDX-License-Identifier: Apache-2.0
"""What a channel sends, and when, on a network in virtual time: repeats, windows, what is lost, what is at rest."""

from itertools import pairwise

import pytest
from support.channel_network import START, A, B, C, Datagram, Network, address, kinds, pair, sent, state

from agent.channel.counter import Count
from agent.channel.event import Notice
from agent.channel.message import Kind, parse
from agent.channel.outbox import MAX_PENDING
from agent.channel.state import pack_addresses
from agent.channel.transmitter import MAX_ATTEMPTS, WINDOW


def test_only_the_lost_part_is_repeated() -> None:
    lost = []

    def lose_second_part(datagram: Datagram) -> tuple[float, ...]:
        message = parse(datagram.data)
        assert message is not None
        if message.kind == Kind.STATE and message.sender == int(B) and message.part == 1 and not lost:
            lost.append(message)
            return ()
        return (0.001,)

    network = Network(lose_second_part)
    a, _ = pair(network, services=300)
    network.run(1)
    assert a.states == {B: state(2, 300)}
    assert sorted(message.part for message in sent(network, B) if message.kind == Kind.STATE) == [0, 1, 1, 2, 3]


def test_repeats_back_off_and_end_in_hellos() -> None:
    network = Network()
    a, _ = pair(network)
    network.run(1)
    network.stop(1)
    network.sent.clear()
    a.publish(state(9), network.now)
    times = []
    at = network.now
    while (at := a.next_at or at) < START + 100:
        times += [(at - network.now, parse(data)) for _, data in a.step(at)]
    states = [since for since, message in times if message and message.kind == Kind.STATE]
    hellos = [since for since, message in times if message and message.kind == Kind.HELLO]
    assert len(states) == MAX_ATTEMPTS
    waits = [after - before for before, after in pairwise(states)]
    for wait, expected in zip(waits, [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], strict=True):
        assert 0.75 * expected <= wait <= 1.25 * expected
    waits = [after - before for before, after in pairwise(hellos)]
    for wait, expected in zip(waits, [1, 2, 4, 8, 16, 30], strict=False):
        assert 0.75 * expected <= wait <= 1.25 * expected
    assert a.states == {B: state(2)}


def test_a_newer_state_replaces_one_that_is_not_acknowledged() -> None:
    reachable = [True]
    network = Network(lambda datagram: (0.001,) if reachable[0] else ())
    a, b = pair(network)
    network.run(1)
    reachable[0] = False
    a.publish(state(10), network.now)
    network.run(0.3)
    reachable[0] = True
    sent(network)
    a.publish(state(11), network.now)
    network.run(0.01)
    assert b.states == {A: state(11)}
    assert [message.sequence for message in sent(network, A)] == [3]
    network.run(5)
    assert sent(network) == []


def test_an_acknowledgment_that_comes_late_ends_a_silence() -> None:
    slow = [False]

    def fate(datagram: Datagram) -> tuple[float, ...]:
        if not slow[0] or datagram.source == A:
            return (0.001,)
        message = parse(datagram.data)
        return (8.0,) if message and message.kind == Kind.ACK else ()  # answers to hellos are lost

    network = Network(fate)
    a, b = pair(network)
    network.run(1)
    slow[0] = True
    a.publish(state(3), network.now)
    network.run(7.9)
    assert kinds(sent(network, A))[-1] == Kind.HELLO
    network.run(2)
    sent(network)
    network.run(60)
    assert sent(network) == []
    a.publish(state(4), network.now)
    network.run(0.01)
    assert b.states == {A: state(4)}


def test_wake_asks_an_absent_node_at_once_but_once_a_second() -> None:
    network = Network()
    a = network.start(0)
    a.follow({B}, network.now)
    network.run(100)
    sent(network)
    for _ in range(20):
        a.wake(B, network.now)
        network.run(0.1)
    assert kinds(sent(network)) == [Kind.HELLO] * 2
    a.wake(C, network.now)  # not followed


def test_notices_reach_all_with_a_session_once() -> None:
    network = Network(lambda datagram: (0.001, 0.002))
    a, _ = pair(network)
    network.run(1)
    network.events.clear()
    payload = pack_addresses([C])
    a.notify(Kind.SUSPECTS, payload, network.now)
    a.notify(200, b"of a later release", network.now)
    network.run(1)
    assert network.events == [(B, Notice(A, Kind.SUSPECTS, payload)), (B, Notice(A, 200, b"of a later release"))]
    with pytest.raises(ValueError, match="notice of kind 3 with 0 bytes"):
        a.notify(Kind.STATE, b"", network.now)
    with pytest.raises(ValueError, match="notice of kind 16 with 1141 bytes"):
        a.notify(Kind.SUSPECTS, bytes(1141), network.now)


def test_a_notice_to_one_node_reaches_no_other() -> None:
    network = Network()
    channels = [network.start(number) for number in range(3)]
    for channel in channels:
        channel.follow({A, B, C}, network.now)
        channel.publish(state(), network.now)
    assert not channels[0].notify_one(B, Kind.TRACE_REQUEST, b"x", network.now)  # no session yet
    network.run(1)
    network.events.clear()
    assert channels[0].notify_one(B, Kind.TRACE_REQUEST, b"x", network.now)
    assert not channels[0].notify_one(address(9), Kind.TRACE_REQUEST, b"x", network.now)
    network.run(1)
    assert network.events == [(B, Notice(A, Kind.TRACE_REQUEST, b"x"))]
    with pytest.raises(ValueError, match="notice of kind 3 with 0 bytes"):
        channels[0].notify_one(B, Kind.STATE, b"", network.now)


def test_at_most_64_datagrams_are_in_flight() -> None:
    network = Network(lambda datagram: ())
    a = network.start(0)
    a.follow({address(number) for number in range(1, 1000)}, network.now)
    first = [destination for destination, _ in a.step(network.now)]
    assert len(first) == WINDOW
    assert a.step(network.now) == []
    assert network.now + 0.09 < a.next_at <= network.now + 0.11
    network.run(1.4)
    assert WINDOW * 13 <= network.count[A] <= WINDOW * 14
    network.run(0.3)
    asked = [*first, *(one.destination for one in network.sent)]
    assert len(set(asked[:999])) == 999  # all of them before one is asked again


def test_dead_peers_do_not_delay_live_ones() -> None:
    dead = {address(number) for number in range(100, 900)}
    network = Network(lambda datagram: () if datagram.destination in dead else (0.001,))
    a = network.start(0)
    live = {address(number) for number in range(1, 20)}
    for number in range(1, 20):
        network.start(number).follow({A}, network.now)
    a.publish(state(1), network.now)
    a.follow(live | dead, network.now)
    network.run(3)
    a.publish(state(2), network.now)
    network.run(0.3)
    assert all(network.channels[node].states == {A: state(2)} for node in live)


def test_a_node_at_rest_does_nothing() -> None:
    network = Network()
    a = network.start(0)
    peers = [address(number) for number in range(1, 100)]
    a.publish(state(1), network.now)
    a.follow(peers, network.now)
    for number in range(1, 100):
        channel = network.start(number)
        channel.publish(state(number), network.now)
        channel.follow({A}, network.now)
    network.run(2)
    assert len(a.states) == 99
    assert a.next_at == float("inf")
    sent(network)
    network.run(3600)
    assert sent(network) == []


def test_answers_that_nobody_fetches_are_bounded() -> None:
    network = Network()
    a, b = network.start(0), network.start(1)
    a.follow({B}, network.now)
    b.follow({A}, network.now)
    ((_, hello),) = b.step(network.now)
    for _ in range(MAX_PENDING + 5):
        a.receive(hello, B, network.now)
    assert a.counters[Count.NOT_SENT] == 5
    assert len(a.step(network.now)) <= MAX_PENDING + 1
