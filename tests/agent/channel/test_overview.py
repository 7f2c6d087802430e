# SPDX-License-Identifier: Apache-2.0
"""A node's overview as bytes: equal after a round, its bounds, and whatever bytes arrive."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.channel.message import MAX_PAYLOAD
from agent.channel.overview import (
    MAX_COUNT,
    MAX_FAULT_BYTES,
    VERDICTS,
    Count,
    Load,
    Overview,
    Tcp,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from agent.model import State

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
counts = st.tuples(u16, u16).map(lambda pair: Count(min(pair), max(pair)))
states = st.sampled_from([State.UP, State.DRAINING, State.LEFT])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_FAULT_BYTES // 4)
overviews = st.builds(
    Overview, u32, states, st.sampled_from(VERDICTS), u64, st.booleans(), st.booleans(), st.booleans(), u32, u32, u32,
    counts, counts, counts, u16, texts, st.builds(Load, *[u64] * len(Load._fields)),
    st.none() | st.builds(Tcp, u64, u64),
)  # fmt: skip
ONE = Overview(7, State.UP, "ok", 1)


@given(u32)
def test_a_request_comes_back_as_it_was(number: int) -> None:
    data = encode_request(number)
    assert decode_request(data + b"of a later release") == number
    with pytest.raises(ValueError, match="a request has 4 bytes, this one 3"):
        decode_request(data[:3])


@given(overviews)
def test_a_reply_comes_back_as_it_was(one: Overview) -> None:
    data = encode_reply(one)
    assert len(data) <= MAX_PAYLOAD
    assert decode_reply(data) == decode_reply(data + b"of a later release") == one


def test_counts_of_tcp_come_after_what_the_first_release_reads() -> None:
    with_counts = encode_reply(replace(ONE, first_fault="x", tcp=Tcp(5, 4)))
    assert with_counts[: 92 + 1][5:] == encode_reply(replace(ONE, first_fault="x"))[5:]
    assert decode_reply(with_counts[:4] + bytes([with_counts[4] & 7]) + with_counts[5:]).tcp is None
    with pytest.raises(ValueError, match="a text of 1 bytes in a reply of 108"):
        decode_reply(with_counts[:-1])


def test_a_long_text_is_cut_between_letters() -> None:
    data = encode_reply(replace(ONE, first_fault="x" + "→" * 200))
    assert decode_reply(data).first_fault == "x" + "→" * 133
    assert len(data) <= 92 + MAX_FAULT_BYTES


def test_counts_have_an_upper_limit() -> None:
    assert decode_reply(encode_reply(replace(ONE, faults=MAX_COUNT + 1))).faults == MAX_COUNT


@pytest.mark.parametrize(
    "one",
    [
        replace(ONE, state=State.LOST),
        replace(ONE, verdict="fine"),
        replace(ONE, epoch=1 << 32),
        replace(ONE, vips=Count(2, 1)),
        replace(ONE, load=Load(held=-1)),
    ],
)
def test_what_is_out_of_bounds_is_not_sent(one: Overview) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the message is struct's, or an index's
        encode_reply(one)


@given(st.binary(max_size=600))
def test_any_bytes_are_an_overview_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_reply(data)


@given(overviews, st.data())
def test_no_reply_that_is_cut_is_taken(one: Overview, data: st.DataObject) -> None:
    whole = encode_reply(one)
    with pytest.raises(ValueError, match="bytes"):
        decode_reply(whole[: data.draw(st.integers(0, len(whole) - 1))])
