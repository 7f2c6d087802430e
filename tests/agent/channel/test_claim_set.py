# SPDX-License-Identifier: Apache-2.0
"""Claims as they travel: what is encoded is decoded, a difference gives the next set, damaged ones are refused."""

import contextlib
import struct
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.channel.claim_set import ROWS_MAX, ClaimSet, decode, difference, encode
from agent.channel.state import ServiceEndpoint

V4 = ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 443), 7
V6 = ServiceEndpoint(IPv6Address("2001:db8::10"), "udp", 0), 0xFFFFFFFF
KEYS = st.sampled_from([V4, V6, (V4[0], 8), (ServiceEndpoint(IPv4Address("192.0.2.10"), "tcp", 80), 7)])


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


ROWS = st.one_of(
    st.sets(st.integers(0, ROWS_MAX - 1), min_size=1, max_size=40),
    st.tuples(st.integers(0, 60_000), st.integers(1, 5_000)).map(lambda run: set(range(run[0], run[0] + run[1]))),
).map(lambda some: np.array(sorted(some), np.uint32))
SETS = st.dictionaries(KEYS, ROWS, max_size=4)


def equal(one: ClaimSet, other: ClaimSet) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@given(SETS)
def test_what_is_encoded_is_decoded(claims: ClaimSet) -> None:
    data = encode(claims)
    assert equal(decode(data), claims)
    assert encode(decode(data)) == data


@given(SETS, SETS)
def test_a_set_and_a_difference_give_the_other_set(one: ClaimSet, other: ClaimSet) -> None:
    changed = difference(one, other)
    assert equal(difference(one, changed), other)
    assert not difference(one, one)


def test_the_shortest_form() -> None:
    head = 13 + 4
    assert len(encode({V4: rows(1, 65_535)})) == head + 4
    assert len(encode({V4: rows(1, 65_536)})) == head + 8
    assert len(encode({V4: np.arange(65_536, dtype=np.uint32)})) == head + 8192
    assert len(encode({V4: np.arange(5_000, dtype=np.uint32)})) == head + 625


@given(st.binary(max_size=200))
def test_any_bytes_give_a_set_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = decode(data)
        assert equal(decode(encode(found)), found)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\4\6\1", "cut"),
        (struct.pack("!BBHIBI", 5, 6, 80, 7, 0, 2) + bytes(6), "IP version 5"),
        (struct.pack("!BBHIBI", 4, 7, 80, 7, 0, 2) + bytes(6), "protocol 7"),
        (struct.pack("!BBHIBI", 4, 6, 80, 7, 0, 4) + bytes(6), "cut"),
        (struct.pack("!BBHIBI", 4, 6, 80, 7, 0, 3) + bytes(7), "form 0 in 3 bytes"),
        (struct.pack("!BBHIBI", 4, 6, 80, 7, 3, 2) + bytes(6), "form 3"),
        (struct.pack("!BBHIBI", 4, 6, 80, 7, 0, 4) + bytes(8), "not in order"),
        (struct.pack("!BBHIBI", 4, 6, 80, 7, 1, 4) + bytes(4) + struct.pack("!I", ROWS_MAX), "too high"),
        (struct.pack("!BBHIBI", 4, 6, 80, 7, 2, 1) + bytes(5), "no rows"),
        (2 * encode({V4: rows(3)}), "twice"),
    ],
)
def test_damaged_records(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode(data)
