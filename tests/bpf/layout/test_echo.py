# SPDX-License-Identifier: Apache-2.0
"""The encoding of echo messages and of the agent's part of the answer."""

import pytest

from bpf.layout.echo import ECHO_BYTES, EchoFlag, EchoKind, EchoMessage, EchoState, Encap

QUESTION = EchoMessage(
    EchoKind.QUESTION, cluster=4242, nonce=0x0102030405060708, back=bytes.fromhex("020000000002"), encap=Encap.MARKER
)
ANSWER = EchoMessage(
    EchoKind.ANSWER, 4242, 9, EchoFlag.READY | EchoFlag.DATA_PATH, 1500, 77, (5, 6), 0xDEADBEEF, 0x12345678
)


def test_question() -> None:
    data = bytes.fromhex(
        "4c424543 01 00 0001 00001092 00000000 0102030405060708" + "00" * 24 + "020000000002 02 00" + "00" * 8
    )
    assert len(data) == ECHO_BYTES
    assert QUESTION.pack() == data
    assert EchoMessage.unpack(data) == QUESTION


def test_answer() -> None:
    data = bytes.fromhex(
        "4c424543 02 03 0001 00001092 000005dc 0000000000000009 000000000000004d 00000005 00000006 deadbeef 12345678"
        + "00" * 16
    )
    assert ANSWER.pack() == data
    assert EchoMessage.unpack(data) == ANSWER


@pytest.mark.parametrize(("age", "word"), [(None, "ffffffff"), (0, "00000000"), (2**40, "fffffffe")])
def test_age_of_the_heartbeat(age: int | None, word: str) -> None:
    data = EchoMessage(EchoKind.ANSWER, 1, 1, heartbeat_age_ms=age).pack()
    assert data[12:16] == bytes.fromhex(word)
    read = EchoMessage.unpack(data)
    assert read is not None
    assert (read.heartbeat_age_ms is None) == (age is None)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0), (3, 0), (4, 0), (4, 3), (6, 1), (7, 2), (54, 3)],
    ids=["magic", "end of magic", "kind 0", "kind 3", "version 257", "version 2", "way 3"],
)
def test_what_is_no_echo(at: int, value: int) -> None:
    data = QUESTION.pack()
    assert EchoMessage.unpack(data[:at] + bytes([value]) + data[at + 1 :]) is None


@pytest.mark.parametrize("data", [b"", QUESTION.pack()[:-1], QUESTION.pack() + b"\0"])
def test_another_length_is_no_echo(data: bytes) -> None:
    assert EchoMessage.unpack(data) is None


def test_state() -> None:
    state = EchoState(0x0102, 0x0304, 0x0506, 0x0708, ready=True)
    data = bytes.fromhex("0201000000000000 0403000000000000 06050000 08070000 01000000 00000000")
    assert state.pack() == data
    assert EchoState.unpack(data) == state
    assert EchoState.unpack(bytes(32)) == EchoState()
