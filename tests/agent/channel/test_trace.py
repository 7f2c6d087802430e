# SPDX-License-Identifier: Apache-2.0
"""A step of a packet's walk as bytes: equal after a round, its bounds, and whatever bytes arrive."""

import contextlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.channel.message import MAX_PAYLOAD
from agent.channel.trace import (
    MAX_CHAIN,
    MAX_EVENT,
    SOCKETS,
    TraceReply,
    TraceRequest,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from agent.model import Flow, LocalSocket
from bpf.layout.counter import Counter
from bpf.layout.limits import CHAIN

A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))
FLOW = Flow("tcp", IPv4Address("192.0.2.7"), 41_000, IPv4Address("10.99.0.1"), 443)
FLOW6 = Flow("udp", IPv6Address("2001:db8::7"), 41_000, IPv6Address("2001:db8:99::1"), 53)
REQUEST = TraceRequest(7, FLOW, opens=True, hop=2, prev=A, in_grace=True)
REPLY = TraceReply(
    number=7,
    event="forward_again",
    to=C,
    hop=3,
    chain=(A, B, C),
    socket=LocalSocket.LISTENER,
    up=True,
    grace=True,
    epoch=0xAABBCCDD,
    unreachable=frozenset({B}),
    silent=frozenset({A, C}),
    awaited=frozenset({A}),
)

u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
nodes = st.integers(1, 0xFFFFFFFF).map(IPv4Address)
chains = st.lists(nodes, max_size=MAX_CHAIN, unique=True).map(tuple)
arrivals = st.one_of(st.just((0, None)), st.tuples(st.integers(1, 255), nodes))


@st.composite
def requests(draw: st.DrawFn) -> TraceRequest:
    version = draw(st.sampled_from([4, 6]))
    address = st.ip_addresses(v=version)
    flow = Flow(draw(st.sampled_from(["tcp", "udp"])), draw(address), draw(u16), draw(address), draw(u16))
    return TraceRequest(draw(u32), flow, draw(st.booleans()), *draw(arrivals), draw(st.booleans()))


@st.composite
def replies(draw: st.DrawFn) -> TraceReply:
    chain, (hop, to) = draw(chains), draw(arrivals)
    some = st.sets(st.sampled_from(chain)).map(frozenset) if chain else st.just(frozenset())
    event = draw(st.from_regex(r"[a-z_][a-z0-9_]{0,31}", fullmatch=True))
    socket, up, grace = draw(st.sampled_from(SOCKETS)), draw(st.booleans()), draw(st.booleans())
    return TraceReply(
        draw(u32), event, to, hop, chain, socket, up, grace, draw(u32), draw(some), draw(some), draw(some)
    )


@given(requests())
def test_a_request_comes_back_as_it_was(request: TraceRequest) -> None:
    data = encode_request(request)
    assert len(data) <= MAX_PAYLOAD
    assert decode_request(data) == decode_request(data + b"of a later release") == request


@given(replies())
def test_a_reply_comes_back_as_it_was(reply: TraceReply) -> None:
    data = encode_reply(reply)
    assert len(data) <= MAX_PAYLOAD
    assert decode_reply(data) == decode_reply(data + b"of a later release") == reply


def test_the_bytes_are_those_of_the_description() -> None:
    assert encode_request(REQUEST).hex(" ", -4) == (
        "00000007 06030402 0a00000b a02801bb c0000207 00000000 00000000 00000000 0a630001 00000000 00000000 00000000"
    )
    assert encode_reply(replace(REPLY, event="ok")).hex(" ", -2) == (
        "0000 0007 0303 0303 0a00 000d aabb ccdd 0205 0102 0a00 000b 0a00 000c 0a00 000d 6f6b"
    )


@given(st.binary(max_size=80))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(ValueError):
            decode(data)


@given(st.data())
def test_a_damaged_message_is_decoded_or_refused(draw: st.DataObject) -> None:
    """What is decoded can be encoded again: nothing is outside of the bounds."""
    data = bytearray(draw.draw(st.sampled_from([encode_request(REQUEST), encode_reply(REPLY)])))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        request = decode_request(bytes(data))
        assert decode_request(encode_request(request)) == request
    with contextlib.suppress(ValueError):
        reply = decode_reply(bytes(data))
        assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize("data", [encode_request(REQUEST), encode_request(replace(REQUEST, flow=FLOW6))])
def test_a_cut_request_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ValueError, match="a request has 48 bytes, this one"):
            decode_request(data[:length])


def test_a_cut_reply_is_refused() -> None:
    data = encode_reply(REPLY)
    for length in range(len(data)):
        with pytest.raises(ValueError, match="bytes"):
            decode_reply(data[:length])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, 1, "protocol 1 is not 6 or 17"),
        (6, 5, "no address of IP version 5"),
        (7, 0, "hop 0, forwarded by 10.0.0.11"),
        (20, 1, "no address of IP version 4"),
    ],
)
def test_a_wrong_request_is_refused(at: int, value: int, message: str) -> None:
    data = bytearray(encode_request(REQUEST))
    data[at] = value
    with pytest.raises(ValueError, match=message):
        decode_request(bytes(data))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (5, len(SOCKETS), "socket 5"),
        (6, 0, "forwarded to 10.0.0.13 with hop 0"),
        (7, MAX_CHAIN + 1, "a chain of 9"),
        (18, 8, "more nodes than the chain has"),
        (19, 0, "an event of 0 letters"),
        (19, MAX_EVENT + 1, "an event of 33 letters"),
        (23, 12, "in the chain twice"),
        (32, ord(" "), "the event is no word"),
        (32, 0xC3, "the event is no word"),
    ],
)
def test_a_wrong_reply_is_refused(at: int, value: int, message: str) -> None:
    data = bytearray(encode_reply(REPLY))
    data[at] = value
    with pytest.raises(ValueError, match=message):
        decode_reply(bytes(data))


def test_a_reply_out_of_its_bounds_is_not_sent() -> None:
    with pytest.raises(ValueError, match="an event of 0 letters"):
        encode_reply(replace(REPLY, event=""))
    with pytest.raises(ValueError, match="a chain of 9"):
        encode_reply(TraceReply(1, "x", chain=tuple(A + i for i in range(9))))


def test_every_chain_and_every_counter_fit() -> None:
    assert CHAIN == MAX_CHAIN
    assert all(decode_reply(encode_reply(TraceReply(1, one.name.lower()))).event for one in Counter)
