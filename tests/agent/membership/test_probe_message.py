# SPDX-License-Identifier: Apache-2.0
"""The direct probe: which requests get a reply, which replies count, and that invalid datagrams are dropped."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.membership.probe_message import (
    LENGTH,
    REPLY_TIMEOUT_S,
    REQUEST,
    Message,
    OpenRequests,
    pack,
    probe_key,
    reply_to,
    unpack,
)

A, B, C = (IPv4Address(f"10.0.0.{number}") for number in (11, 12, 13))
KEY, OTHER = probe_key(b"k" * 16), probe_key(b"o" * 16)
NONCE = bytes(range(8))
NOW = 1234.5


def request_datagram(key: bytes = KEY, cluster: int = 7) -> bytes:
    return OpenRequests(A, cluster, [key]).create(B, NONCE, NOW)


def test_wire_format_is_frozen() -> None:
    datagram = pack(Message(REQUEST, 7, A, B, NONCE, 1_234_500, 0), KEY)
    assert datagram == request_datagram()
    assert datagram[:40].hex() == "414c4250" "01000000" "00000007" "0a00000b" "0a00000c" "0001020304050607" "000000000012d644" "00000000"  # fmt: skip  # noqa: E501
    assert len(datagram) == LENGTH == 56
    assert datagram[40:].hex() == "644688255ebb6eefb30231d537ae9209"


def test_reply_carries_the_version_and_counts_once() -> None:
    requests = OpenRequests(A, 7, [KEY])
    request = requests.create(B, NONCE, NOW)
    reply = reply_to(request, A, B, 7, [KEY], 42)
    assert reply is not None
    assert len(reply) <= len(request), "no amplification"
    assert requests.accept(reply, B, NOW + 0.1) == 42
    assert requests.accept(reply, B, NOW + 0.1) is None, "a replayed reply"


@pytest.mark.parametrize(
    ("source", "own", "cluster", "key"),
    [(C, B, 7, KEY), (A, C, 7, KEY), (A, B, 8, KEY), (A, B, 7, OTHER)],
    ids=["from another address than the one it names", "not for this node", "another cluster", "another key"],
)
def test_requests_without_a_reply(source: IPv4Address, own: IPv4Address, cluster: int, key: bytes) -> None:
    assert reply_to(request_datagram(), source, own, cluster, [key], 42) is None


def test_reply_gets_no_reply_and_request_does_not_count_as_one() -> None:
    requests = OpenRequests(A, 7, [KEY])
    request = requests.create(B, NONCE, NOW)
    reply = reply_to(request, A, B, 7, [KEY], 42)
    assert reply is not None
    assert reply_to(reply, A, B, 7, [KEY], 42) is None
    assert requests.accept(request, B, NOW) is None


def test_replies_that_do_not_count() -> None:
    requests = OpenRequests(A, 7, [KEY])
    reply = reply_to(requests.create(B, NONCE, NOW), A, B, 7, [KEY], 42)
    assert reply is not None
    assert requests.accept(reply, C, NOW) is None, "from another node"
    assert OpenRequests(A, 7, [KEY]).accept(reply, B, NOW) is None, "to a request of an earlier run"
    assert OpenRequests(A, 7, [OTHER]).accept(reply, B, NOW) is None
    assert requests.accept(reply, B, NOW + REPLY_TIMEOUT_S) is None, "too late"


def test_reply_to_another_node_s_request_does_not_count() -> None:
    reply = reply_to(OpenRequests(A, 7, [KEY]).create(B, NONCE, NOW), A, B, 7, [KEY], 42)
    assert reply is not None
    other = OpenRequests(C, 7, [KEY])
    other.create(B, NONCE, NOW)
    assert other.accept(reply, B, NOW) is None


def test_nodes_with_an_old_and_a_new_key_accept_each_other() -> None:
    for mine, theirs in (([KEY, OTHER], [OTHER]), ([OTHER], [KEY, OTHER]), ([KEY, OTHER], [OTHER, KEY])):
        requests = OpenRequests(A, 7, mine)
        found = []
        for number in range(2):
            reply = reply_to(requests.create(B, bytes([number] * 8), NOW), A, B, 7, theirs, 42)
            found.append(reply is not None and requests.accept(reply, B, NOW) == 42)
        assert any(found)


def test_open_requests_do_not_accumulate() -> None:
    requests = OpenRequests(A, 7, [KEY])
    for number in range(1000):
        requests.create(B, number.to_bytes(8), NOW + number)
    assert len(requests._open) <= REPLY_TIMEOUT_S + 1


@given(st.binary(max_size=80))
def test_noise_is_dropped(noise: bytes) -> None:
    assert unpack(noise, [KEY]) is None
    assert reply_to(noise, A, B, 7, [KEY], 42) is None
    assert OpenRequests(A, 7, [KEY]).accept(noise, B, NOW) is None


@given(st.integers(0, LENGTH - 1), st.integers(1, 255))
def test_one_changed_byte_invalidates_a_message(offset: int, change: int) -> None:
    datagram = bytearray(request_datagram())
    datagram[offset] ^= change
    assert unpack(bytes(datagram), [KEY]) is None
