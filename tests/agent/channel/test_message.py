# SPDX-License-Identifier: Apache-2.0
"""The datagrams: their bytes, their bounds, and their signature."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.channel.message import (
    MAX_BYTES,
    MAX_PARTS,
    MAX_PAYLOAD,
    MIN_BYTES,
    Authenticator,
    Kind,
    Message,
    channel_key,
    is_consistent,
    parse,
    split,
)

STATE = Message(Kind.STATE, 4242, 0x0A00000B, 0x0A00000C, 0x1122334455667788, 0x99, 7, 1, 2, b"payload")
KEY = Authenticator([b"k" * 16])

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
u8 = st.integers(0, 255)
messages = st.builds(Message, u8, u32, u32, u32, u64, u64, u32, u16, u16, st.binary(max_size=MAX_PAYLOAD), u8)


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    datagram = KEY.seal(message)
    assert MIN_BYTES <= len(datagram) <= MAX_BYTES
    assert parse(datagram) == message
    assert KEY.accepts(datagram)


def test_the_bytes_are_those_of_the_description() -> None:
    datagram = KEY.seal(STATE)
    assert datagram[:44].hex(" ", -4) == (
        "4c424348 01030000 00001092 0a00000b 0a00000c 11223344 55667788 00000000 00000099 00000007 00010002"
    )
    assert datagram[44:-16] == b"payload"


@given(messages, st.data())
def test_no_changed_datagram_is_authentic(message: Message, draw: st.DataObject) -> None:
    datagram = KEY.seal(message)
    bit = draw.draw(st.integers(0, 8 * len(datagram) - 1))
    changed = bytearray(datagram)
    changed[bit // 8] ^= 1 << bit % 8
    assert not KEY.accepts(bytes(changed))
    length = draw.draw(st.integers(16, len(datagram) - 1))
    assert not KEY.accepts(datagram[:length])
    assert not KEY.accepts(datagram + b"\0")


def test_the_first_of_two_keys_signs_and_each_is_accepted() -> None:
    old, new = b"o" * 16, b"n" * 16
    both = Authenticator([new, old])
    assert both.accepts(Authenticator([old]).seal(STATE))
    assert both.accepts(Authenticator([new]).seal(STATE))
    assert both.seal(STATE) == Authenticator([new]).seal(STATE)
    assert not both.accepts(KEY.seal(STATE))
    assert both
    assert not Authenticator([])
    assert not Authenticator([]).accepts(KEY.seal(STATE))


def test_the_key_is_not_the_secret_itself() -> None:
    assert channel_key(b"k" * 16) not in (b"k" * 16, channel_key(b"l" * 16))
    assert len(channel_key(b"k" * 64)) == 32


@given(st.binary(max_size=MAX_BYTES + 50))
def test_any_bytes_are_parsed_or_none(data: bytes) -> None:
    assert parse(data) is None
    framed = b"LBCH" + data
    assert (parse(framed) is not None) == (MIN_BYTES <= len(framed) <= MAX_BYTES)


@pytest.mark.parametrize(
    ("change", "consistent"),
    [
        ({}, True),
        ({"sender_nonce": 0}, False),
        ({"receiver_nonce": 0}, False),
        ({"sequence": 0}, False),
        ({"part": 2}, False),
        ({"part": 0, "parts": 0}, False),
        ({"parts": MAX_PARTS}, True),
        ({"parts": MAX_PARTS + 1}, False),
        ({"payload": b""}, False),
        ({"kind": Kind.ACK}, False),
        ({"kind": Kind.ACK, "payload": b""}, True),
        ({"kind": Kind.HELLO_ACK, "payload": b""}, True),
        ({"kind": Kind.HELLO, "payload": b""}, False),
        ({"kind": Kind.HELLO, "payload": b"", "receiver_nonce": 0}, True),
        ({"kind": Kind.HELLO, "receiver_nonce": 0}, False),
        ({"kind": Kind.SUSPECTS}, True),
        ({"kind": 200}, True),
        ({"kind": 9, "payload": b""}, True),
    ],
)
def test_what_a_message_of_each_kind_has(change: dict[str, int], consistent: bool) -> None:
    assert is_consistent(STATE._replace(**change)) is consistent


def test_a_state_in_parts() -> None:
    assert split(b"x" * MAX_PAYLOAD) == (b"x" * MAX_PAYLOAD,)
    data = bytes(range(256)) * 10
    assert [len(part) for part in split(data)] == [MAX_PAYLOAD, MAX_PAYLOAD, 2560 - 2 * MAX_PAYLOAD]
    assert b"".join(split(data)) == data
    assert len(split(bytes(MAX_PARTS * MAX_PAYLOAD))) == MAX_PARTS
    with pytest.raises(ValueError, match="the state has 36481 bytes, more than 36480"):
        split(bytes(MAX_PARTS * MAX_PAYLOAD + 1))
