# SPDX-License-Identifier: Apache-2.0
"""Claims by the channel: the whole set first, then differences; lost, doubled, late; only to those that read them."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.channel_network import Datagram, Network, address, state

from agent.channel.channel import Channel
from agent.channel.claim_log import GROWTH_PARTS, ClaimLog, ClaimReader, NodeClaims
from agent.channel.claim_set import RECORDS_MAX, decode, encode
from agent.channel.counter import Count
from agent.channel.event import ClaimsReceived, SessionBegun
from agent.channel.message import FIRST_NOTICE, Kind, Message, parse
from agent.channel.state import ServiceEndpoint

A, B, C = map(address, range(3))
KEY = ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443), 7
OTHER = ServiceEndpoint(IPv4Address("192.0.2.11"), "tcp", 443), 7


def claims(*rows: int, boot: int = 7) -> NodeClaims:
    return NodeClaims(boot, {KEY: np.array(sorted(rows), np.uint32)} if rows else {})


def readers(network: Network, reads: Sequence[bool] = (True, True)) -> list[Channel]:
    channels = [network.start(number) for number in range(len(reads))]
    for channel, reading in zip(channels, reads, strict=True):
        channel.follow(set(network.channels), network.now)
        channel.publish(replace(state(), reads_claims=reading), network.now)
    return channels


def kinds(sent: list[Datagram], source: IPv4Address = A) -> list[int]:
    return [message.kind for one in sent if one.source == source and (message := parse(one.data))]


def test_the_whole_set_then_a_difference_of_one_datagram() -> None:
    network = Network()
    a, b = readers(network)
    many = set(random.Random(1).sample(range(65_536), 9_000))
    a.publish_claims(claims(*many))
    network.run(1)
    assert b.claims[A].equals(claims(*many))
    assert kinds(network.sent).count(Kind.CLAIMS) == 8
    network.sent.clear()
    a.publish_claims(claims(*many - {min(many)}))
    a.publish_claims(claims(*many - {min(many)}))
    network.run(1)
    assert kinds(network.sent) == [Kind.CLAIMS]
    assert b.claims[A].equals(claims(*many - {min(many)}))
    assert [event for node, event in network.events if node == B][-1] == ClaimsReceived(A)
    network.sent.clear()
    network.run(60)
    assert network.sent == [], "at rest nothing is sent"


def test_no_claims_to_a_node_of_another_release_which_would_not_acknowledge_them() -> None:
    network = Network()
    a, b, c = readers(network, (True, False, True))
    a.publish_claims(claims(1, 2))
    network.run(10)
    assert A not in b.claims
    assert c.claims[A].equals(claims(1, 2))
    network.sent.clear()
    a.publish(replace(state(2), reads_claims=True), network.now)
    network.run(1)
    assert kinds(network.sent) == [Kind.STATE, Kind.STATE], "the other one is not taken for dead"


def test_a_restarted_peer_reads_all_and_a_restarted_holder_is_believed_until_it_speaks() -> None:
    network = Network()
    a, b = readers(network)
    a.publish_claims(claims(5))
    b.publish_claims(claims(9))
    network.run(1)
    old = network.channels[B]
    network.stop(1)
    again = network.start(1)
    again.follow({A}, network.now)
    again.publish(replace(state(2), reads_claims=True), network.now)
    network.run(0.5)
    assert again is not old
    assert again.claims[A].equals(claims(5))
    assert a.claims[B].equals(claims(9)), "its first set has not come yet"
    again.publish_claims(claims())
    network.run(0.5)
    assert a.claims[B].equals(claims())
    a.follow((), network.now)
    assert not a.claims


def test_what_changes_while_a_peer_is_silent_is_sent_once_it_goes_on_in_its_session() -> None:
    network = Network()
    a, b = readers(network)
    a.publish_claims(claims(1))
    network.run(1)
    # The peer is suspended for 8 s: it answers the parts, but so late that it counts as silent.
    network.fate = lambda one: [8.0] if one.source == B else [] if is_hello(one) else [0.001]
    a.publish_claims(claims(1, 2))
    network.run(7.5)
    assert a._peers[int(B)].silent
    a.publish_claims(claims(1, 2, 3))
    a.publish(replace(state(2), reads_claims=True), network.now)
    network.run(1.5)
    assert b.claims[A].equals(claims(1, 2, 3))
    assert b.states[A].version == 2
    assert network.events.count((B, SessionBegun(A))) == 1, "the test shows nothing if there is another session"


def is_hello(one: Datagram) -> bool:
    message = parse(one.data)
    return message is not None and message.kind == Kind.HELLO


def test_a_set_that_cannot_be_read_is_named_and_the_one_before_counts() -> None:
    network = Network()
    a, b = readers(network)
    a.publish_claims(claims(5))
    network.run(1)
    a._log.parts[:] = [b"\1damaged"]
    a._transmitter.publish(Kind.CLAIMS, 1, a._peers.values())
    network.run(1)
    assert b.claims[A].equals(claims(5))
    assert b.counters[Count.BAD_STATE] == 1
    a.publish(replace(state(2), reads_claims=True), network.now)
    for _ in range(3):
        (line,) = b.problems(network.now)
        assert "the claims of 10.0.0.11 cannot be read (the set has no boot)" in line, "also after another state"
        network.run(50)
    a.publish_claims(claims(5, boot=8))
    network.run(1)
    assert b.problems(network.now) == ()


@pytest.mark.parametrize("seed", range(4))
def test_all_agree_on_a_network_that_loses_a_third(seed: int) -> None:
    rng = random.Random(seed)
    network = Network(fate=lambda _: [rng.uniform(0.0, 0.2) for _ in range(rng.choice([0, 1, 1, 2]))])
    channels = readers(network, (True,) * 3)
    held: list[set[int]] = [set() for _ in channels]
    for _ in range(40):
        number = rng.randrange(3)
        held[number] ^= set(rng.sample(range(3_000), rng.choice([1, 2, 900])))
        channels[number].publish_claims(claims(*held[number]))
        network.run(rng.uniform(0, 0.3))
    network.run(15)
    for reader in channels:
        for number, rows in enumerate(held):
            if reader is not channels[number] and rows:
                assert reader.claims[address(number)].equals(claims(*rows))


def message(part: int, payload: bytes, sequence: int = 1) -> Message:
    return Message(Kind.CLAIMS, 7, int(A), int(B), 1, 2, sequence, part, 0, payload)


@given(st.lists(st.sets(st.integers(0, 5_000), max_size=1_500), min_size=1, max_size=12), st.randoms())
def test_the_parts_of_a_log_in_any_order_with_copies(sets: list[set[int]], rng: random.Random) -> None:
    log, reader, sequence = ClaimLog(), ClaimReader(), 0
    found: NodeClaims | None = None
    for rows in sets:
        sequence += log.write(claims(*rows)) is True
        parts = [message(part, payload, sequence) for part, payload in enumerate(log.parts)] * 2
        rng.shuffle(parts)
        for one in parts:
            found = reader.add(one) or found
        assert found is not None
        assert found.equals(claims(*rows))


def test_a_log_begins_anew_once_it_has_grown_and_with_another_boot() -> None:
    log = ClaimLog()
    assert log.write(claims()) is True
    assert log.write(claims()) is None
    begun = [log.write(claims(number)) for number in range(GROWTH_PARTS + 1)]
    assert begun == [False] * GROWTH_PARTS + [True]
    assert len(log.parts) == 1
    assert log.write(claims(GROWTH_PARTS, boot=8)) is True


def test_a_set_that_is_too_large_is_refused_and_the_log_stays() -> None:
    log = ClaimLog()
    log.write(claims(1))
    services = {(ServiceEndpoint(KEY[0].vip, "tcp", port), 7): np.arange(65_536, dtype=np.uint32) for port in range(80)}
    with pytest.raises(ValueError, match="parts"):
        log.write(NodeClaims(7, services))
    assert log.write(claims(1)) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.binary(min_size=1, max_size=40)), max_size=30))
def test_any_parts_give_claims_or_a_value_error(parts: list[tuple[int, int, bytes]]) -> None:
    reader = ClaimReader()
    for sequence, part, payload in parts:
        with contextlib.suppress(ValueError):
            found = reader.add(message(part, payload, sequence))
            assert found is None or found.equals(NodeClaims(found.boot, decode(encode(found.rows))))


def test_differences_add_up_to_no_more_records_than_a_set_may_have() -> None:
    """Each entry costs time for all records that are known: unbounded, one log would stop the event loop for long."""
    one, reader = np.zeros(1, np.uint32), ClaimReader()
    reader.add(message(0, b"\1" + bytes(8)))
    per_entry = RECORDS_MAX // 64
    for entry in range(65):
        numbers = range(entry * per_entry, (entry + 1) * per_entry)
        payload = b"\1" + encode({(KEY[0], number): one for number in numbers})
        if entry < 64:
            assert reader.add(message(1 + entry, payload)) is not None
    with pytest.raises(ValueError, match="records"):
        reader.add(message(65, payload))
    assert reader.add(message(66, payload)) is None


def test_kinds_of_notices_stay_apart() -> None:
    assert max(kind for kind in Kind if kind < FIRST_NOTICE) == Kind.STREAM_ACK
