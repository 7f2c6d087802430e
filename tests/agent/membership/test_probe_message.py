# SPDX-License-Identifier: Apache-2.0
"""The direct probe: who is answered, whose answer counts, and what a stranger gets (nothing)."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.membership.probe_message import ASK, LENGTH, OPEN_S, Asker, Message, answer, pack, probe_key, unpack

A, B, C = (IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13))
KEY, OTHER = probe_key(b"k" * 16), probe_key(b"o" * 16)
NONCE = bytes(range(8))
NOW = 1234.5


def question(key: bytes = KEY, cluster: int = 7) -> bytes:
    return Asker(A, cluster, [key]).ask(B, NONCE, NOW)


def test_the_wire_format_is_frozen() -> None:
    said = pack(Message(ASK, 7, A, B, NONCE, 1_234_500, 0), KEY)
    assert said == question()
    assert said[:40].hex() == "414c4250" "01000000" "00000007" "0a00000b" "0a00000c" "0001020304050607" "000000000012d644" "00000000"  # fmt: skip  # noqa: E501
    assert len(said) == LENGTH == 56
    assert said[40:].hex() == "644688255ebb6eefb30231d537ae9209"


def test_a_question_is_answered_under_the_version_and_the_answer_counts_once() -> None:
    asker = Asker(A, 7, [KEY])
    asked = asker.ask(B, NONCE, NOW)
    reply = answer(asked, A, B, 7, [KEY], 42)
    assert reply is not None
    assert len(reply) <= len(asked), "nobody is flooded by way of a node"
    assert asker.heard(reply, B, NOW + 0.1) == 42
    assert asker.heard(reply, B, NOW + 0.1) is None, "a recorded answer says nothing"


@pytest.mark.parametrize(
    ("source", "own", "cluster", "key"),
    [(C, B, 7, KEY), (A, C, 7, KEY), (A, B, 8, KEY), (A, B, 7, OTHER)],
    ids=["not from the address that it names", "not for this node", "another cluster", "another key"],
)
def test_who_is_not_answered(source: IPv4Address, own: IPv4Address, cluster: int, key: bytes) -> None:
    assert answer(question(), source, own, cluster, [key], 42) is None


def test_an_answer_is_not_answered_and_a_question_does_not_count_as_an_answer() -> None:
    asker = Asker(A, 7, [KEY])
    asked = asker.ask(B, NONCE, NOW)
    reply = answer(asked, A, B, 7, [KEY], 42)
    assert reply is not None
    assert answer(reply, A, B, 7, [KEY], 42) is None
    assert asker.heard(asked, B, NOW) is None


def test_whose_answer_does_not_count() -> None:
    asker = Asker(A, 7, [KEY])
    reply = answer(asker.ask(B, NONCE, NOW), A, B, 7, [KEY], 42)
    assert reply is not None
    assert asker.heard(reply, C, NOW) is None, "from another node"
    assert Asker(A, 7, [KEY]).heard(reply, B, NOW) is None, "to a question of an earlier run"
    assert Asker(A, 7, [OTHER]).heard(reply, B, NOW) is None
    assert asker.heard(reply, B, NOW + OPEN_S) is None, "too late"


def test_an_answer_to_another_node_s_question_does_not_count() -> None:
    reply = answer(Asker(A, 7, [KEY]).ask(B, NONCE, NOW), A, B, 7, [KEY], 42)
    assert reply is not None
    other = Asker(C, 7, [KEY])
    other.ask(B, NONCE, NOW)
    assert other.heard(reply, B, NOW) is None


def test_nodes_with_an_old_and_a_new_key_understand_each_other() -> None:
    for mine, theirs in (([KEY, OTHER], [OTHER]), ([OTHER], [KEY, OTHER]), ([KEY, OTHER], [OTHER, KEY])):
        asker = Asker(A, 7, mine)
        found = []
        for number in range(2):
            reply = answer(asker.ask(B, bytes([number] * 8), NOW), A, B, 7, theirs, 42)
            found.append(reply is not None and asker.heard(reply, B, NOW) == 42)
        assert any(found)


def test_open_questions_do_not_pile_up() -> None:
    asker = Asker(A, 7, [KEY])
    for number in range(1000):
        asker.ask(B, number.to_bytes(8), NOW + number)
    assert len(asker._open) <= OPEN_S + 1


@given(st.binary(max_size=80))
def test_noise_is_neither_answered_nor_believed(noise: bytes) -> None:
    assert unpack(noise, [KEY]) is None
    assert answer(noise, A, B, 7, [KEY], 42) is None
    assert Asker(A, 7, [KEY]).heard(noise, B, NOW) is None


@given(st.integers(0, LENGTH - 1), st.integers(1, 255))
def test_one_changed_byte_makes_it_noise(place: int, change: int) -> None:
    said = bytearray(question())
    said[place] ^= change
    assert unpack(bytes(said), [KEY]) is None
