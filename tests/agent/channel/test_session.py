# SPDX-License-Identifier: Apache-2.0
"""The nonces of a session, and a state from its parts."""

import itertools
import random

import pytest

from agent.channel.message import Kind, Message
from agent.channel.session import Freshness, Handshake, Reassembly


def handshake(first: int) -> Handshake:
    return Handshake(itertools.count(first).__next__)


def message(sender_nonce: int, receiver_nonce: int, kind: int = Kind.ACK) -> Message:
    return Message(kind, 1, 2, 3, sender_nonce, receiver_nonce)


def part(sequence: int, number: int, parts: int, payload: bytes) -> Message:
    return Message(Kind.STATE, 1, 2, 3, 4, 5, sequence, number, parts, payload)


def test_the_handshake_of_the_drawing() -> None:
    a, b = handshake(100), handshake(200)
    assert not a.established
    assert b.answer(message(a.spare, 0, Kind.HELLO)) == 200
    assert not b.established
    assert a.receive(message(200, 100)) is Freshness.NEW
    assert (a.own, a.remote, a.spare) == (100, 200, 101)
    assert b.receive(message(a.own, a.remote)) is Freshness.NEW
    assert a.receive(message(b.own, b.remote)) is Freshness.CURRENT
    assert b.receive(message(a.own, a.remote)) is Freshness.CURRENT


def test_both_say_hello_at_once() -> None:
    a, b = handshake(100), handshake(200)
    from_a, from_b = message(b.answer(message(100, 0)), 100), message(a.answer(message(200, 0)), 200)
    assert a.receive(from_a) is b.receive(from_b) is Freshness.NEW
    assert (a.own, a.remote) == (b.remote, b.own)


def test_a_copied_hello_gets_the_session_of_its_nonce() -> None:
    b = handshake(200)
    b.receive(message(100, 200))
    assert b.answer(message(100, 0, Kind.HELLO)) == b.own == 200
    assert b.answer(message(99, 0, Kind.HELLO)) == b.spare == 201


@pytest.mark.parametrize("nonces", [(100, 201), (100, 199), (99, 200), (200, 100), (0, 0)])
def test_other_nonces_are_stale_and_change_nothing(nonces: tuple[int, int]) -> None:
    b = handshake(200)
    b.receive(message(100, 200))
    b.spare = 300
    assert b.receive(message(*nonces)) is Freshness.STALE
    assert (b.own, b.remote, b.spare) == (200, 100, 300)


def test_without_a_session_nothing_is_current() -> None:
    assert handshake(200).receive(message(0, 0)) is Freshness.STALE


def test_a_state_from_parts_in_any_order_with_copies() -> None:
    parts = [part(1, number, 5, bytes([number])) for number in range(5)]
    for seed in range(20):
        rng, reassembly = random.Random(seed), Reassembly()
        arriving = [*parts, *parts]
        rng.shuffle(arriving)
        states = [state for one in arriving if (state := reassembly.add(one)) is not None]
        assert states == [bytes(range(5))]


def test_a_newer_state_replaces_one_that_is_not_whole() -> None:
    reassembly = Reassembly()
    assert reassembly.add(part(1, 0, 2, b"old")) is None
    assert reassembly.add(part(2, 0, 2, b"n")) is None
    assert reassembly.is_superseded(part(1, 1, 2, b"old"))
    assert reassembly.add(part(1, 1, 2, b"old")) is None
    assert not reassembly.is_superseded(part(2, 0, 2, b"n"))
    assert reassembly.add(part(2, 1, 3, b"?")) is None
    assert reassembly.add(part(2, 1, 2, b"ew")) == b"new"
    assert reassembly.add(part(2, 1, 2, b"ew")) is None
    assert not reassembly.is_superseded(part(2, 1, 2, b"ew"))
