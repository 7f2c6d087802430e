# SPDX-License-Identifier: Apache-2.0
"""Streams of items: each arrives once and in order despite losses; states do not wait for them; hostile datagrams."""

import random
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.channel_network import START, Datagram, Network, address, state

from agent.channel.channel import Channel
from agent.channel.event import ItemReceived, SessionBegun, StateReceived
from agent.channel.message import STREAM_ACK_BYTES, Kind, parse
from agent.channel.stream import FIRST_WINDOW, MAX_WINDOW, SPAN, Receiver, Sender

A, B, C = map(address, range(3))


def items(count: int, size: int = 1100) -> list[bytes]:
    return [struct.pack("!I", number).ljust(size, b".") for number in range(count)]


def connected(network: Network, nodes: int = 2) -> list[Channel]:
    channels = [network.start(number) for number in range(nodes)]
    for channel in channels:
        channel.follow(set(network.channels), network.now)
        channel.publish(state(), network.now)
    network.run(1)
    network.events.clear()
    network.sent.clear()
    return channels


def received(network: Network, node: IPv4Address, source: IPv4Address = A) -> list[bytes]:
    return [
        event.payload
        for at, event in network.events
        if at == node and isinstance(event, ItemReceived) and event.address == source
    ]


def lossy(share: float, seed: int) -> "Lossy":
    return Lossy(share, random.Random(seed))


class Lossy:
    """Loses a share of all datagrams, doubles some, and delays each by 1 to 3 ms."""

    def __init__(self, share: float, rng: random.Random) -> None:
        self.share, self.rng = share, rng

    def __call__(self, datagram: Datagram) -> Sequence[float]:
        copies = 0 if self.rng.random() < self.share else 1 + (self.rng.random() < 0.02)
        return [self.rng.uniform(0.001, 0.003) for _ in range(copies)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_3000_items_arrive_in_order_in_half_a_second_though_a_tenth_of_all_datagrams_is_lost(seed: int) -> None:
    network = Network()
    a, _ = connected(network)
    network.fate = lossy(0.1, seed)
    whole = items(3000)
    start = network.now
    assert a.stream(B, iter(whole))
    network.run(5, lambda: len(network.events) == 3000)
    assert received(network, B) == whole
    assert network.now - start < 0.5
    sent = sum(parse(one.data).kind == Kind.STREAM for one in network.sent)  # type: ignore[union-attr]
    assert sent < 3000 * 1.3
    network.run(3)
    network.sent.clear()
    network.run(10)
    assert network.sent == [], "at rest nothing is sent"


def test_items_are_taken_only_when_there_is_room_for_them() -> None:
    network = Network()
    a, _ = connected(network)
    network.fate = lambda datagram: ()
    taken: list[bytes] = []

    def source():  # type: ignore[no-untyped-def]
        for one in items(100):
            taken.append(one)
            yield one

    a.stream(B, source())
    network.run(2)
    assert len(taken) == FIRST_WINDOW


def test_a_state_goes_before_a_long_stream() -> None:
    network = Network(lambda datagram: (0.01,))
    a, _ = connected(network)
    a.stream(B, items(5000, 100))
    network.run(0.2)
    a.publish(state(2), network.now)
    start = network.now
    network.run(1, lambda: any(isinstance(event, StateReceived) for _, event in network.events[-10:]))
    assert network.now - start < 0.05


def test_streams_to_several_peers_take_turns_and_their_windows_shrink_with_the_number_of_senders() -> None:
    network = Network()
    connected(network, 8)
    for channel in list(network.channels.values())[1:]:
        channel.stream(A, items(500, 50))
    network.run(0.02)
    counts = [len(received(network, A, source)) for source in list(network.channels)[1:]]
    assert min(counts) > 0.5 * max(counts) > 0
    network.run(2)
    for source in list(network.channels)[1:]:
        assert received(network, A, source) == items(500, 50)


def test_a_peer_that_starts_again_gets_everything_that_it_has_not_acknowledged() -> None:
    network = Network()
    a, _ = connected(network)
    whole = items(2000, 50)
    a.stream(B, whole)
    network.run(0.02)
    before = len(received(network, B))
    assert 0 < before < 2000
    network.events.clear()
    b = network.start(1)
    b.follow(set(network.channels), network.now)
    b.publish(state(2), network.now)
    network.run(40)
    assert (B, SessionBegun(A)) in network.events
    got = received(network, B)
    assert got == whole[-len(got) :]
    assert len(got) >= 2000 - before


def test_what_is_for_a_node_that_is_followed_no_more_is_forgotten() -> None:
    network = Network()
    a, _ = connected(network)
    a.stream(B, items(2000))
    network.run(0.01)
    a.follow([A], network.now)
    assert not a.stream(B, items(1))
    network.run(1)
    network.sent.clear()
    network.run(10)
    assert all(one.source != A for one in network.sent)


def test_a_hostile_peer_costs_bounded_memory_and_breaks_nothing() -> None:
    receiver = Receiver()
    for sequence in (2, 5, SPAN + 1, SPAN + 2, (1 << 32) - 1):
        assert receiver.add(sequence, b"x", START) == []
    assert len(receiver._early) == 3
    assert receiver.add(1, b"1", START) == [b"1", b"x"]
    for sequence in range(1, 2000):
        receiver.add(sequence * 7, b"y", START)
    assert len(receiver._early) <= SPAN
    assert len(receiver.acknowledgment(10)) == STREAM_ACK_BYTES


@given(st.lists(st.binary(min_size=STREAM_ACK_BYTES, max_size=STREAM_ACK_BYTES), max_size=20), st.integers(0, 50))
def test_any_acknowledgment_leaves_a_sender_that_sends_at_most_its_window(acks: list[bytes], count: int) -> None:
    sender = Sender()
    sender.append(items(count, 10))
    now, sent = START, set()
    for ack in acks:
        sender.acknowledge(ack)
        sent |= {sequence for sequence, _ in sender.take(now, 1000)}
        now += 0.5
        assert len(sender._flights) <= MAX_WINDOW
        assert all(1 <= sequence <= count for sequence in sent)


def test_what_is_acknowledged_but_was_never_sent_is_no_acknowledgment() -> None:
    sender = Sender()
    sender.append(items(20, 10))
    first = [sequence for sequence, _ in sender.take(START, 100)]
    sender.acknowledge(struct.pack("!IH32s", 100, 64, b"\xff" * 32))
    assert sender.take(START, 100) == []
    sender.acknowledge(struct.pack("!IH32s", first[-1] + 1, 64, bytes(32)))
    assert [sequence for sequence, _ in sender.take(START, 100)] == list(range(first[-1] + 1, 21))
    assert not sender.idle
    sender.acknowledge(struct.pack("!IH32s", 21, 64, bytes(32)))
    assert sender.idle or sender.take(START + 9, 9) == []
