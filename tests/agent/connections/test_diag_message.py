# SPDX-License-Identifier: Apache-2.0
"""The messages of a dump, made here: sizes that differ, the end, errors, and what is truncated."""

import errno
import struct
from ipaddress import ip_address

import pytest

from agent.connections.diag_message import read_sockets

HEADER = struct.Struct("<IHHII")
AF_INET, AF_INET6 = 2, 10


def message(local: str, port: int, *, state: int = 1, timer: int = 0, attributes: int = 16, family: int = 0) -> bytes:
    one = ip_address(local)
    address, other = one.packed.ljust(16, b"\0"), ip_address("192.0.2.7").packed.ljust(16, b"\0")
    family = family or (AF_INET if one.version == 4 else AF_INET6)
    body = struct.pack(">BBBBHH", family, state, timer, 0, port, 9) + address + other + bytes(12 + 20 + attributes)
    return HEADER.pack(16 + len(body), 20, 2, 1, 0) + body


def end(code: int = 0, kind: int = 3) -> bytes:
    return HEADER.pack(20, kind, 2, 1, 0) + struct.pack("<i", code)


def buffer(*parts: bytes) -> memoryview:
    return memoryview(b"".join(parts))


def ports(*parts: bytes) -> list[int]:
    return [struct.unpack(">H", struct.pack("<H", one))[0] for one in read_sockets(buffer(*parts))[0]["local_port"]]


def test_messages_of_one_size_and_of_several_are_read() -> None:
    same = [message("10.99.0.1", port) for port in range(1, 6)]
    mixed = [message("10.99.0.1", port, attributes=4 * (port % 3)) for port in range(1, 6)]
    assert ports(*same) == ports(*mixed) == [1, 2, 3, 4, 5]
    assert ports(*same, end()) == ports(*mixed, end()) == [1, 2, 3, 4, 5]
    assert ports(end()) == []
    # As long as one message more, and as two: not to be taken for them.
    longer = message("10.99.0.1", 7, attributes=16 + len(same[0]))
    assert ports(same[0], longer, same[1]) == [1, 7, 2]
    # What stands there may even have the kind of one.
    size = len(same[0])
    kind = longer[: size + 4] + HEADER.pack(0, 20, 0, 0, 0)[4:6] + longer[size + 6 :]
    assert ports(same[0], kind, same[1]) == [1, 7, 2]


def test_the_end_of_a_dump_is_seen() -> None:
    assert read_sockets(buffer(message("10.99.0.1", 1)))[1] is None
    assert read_sockets(buffer(message("10.99.0.1", 1), end()))[1] == 0


def test_an_ipv4_address_has_one_form() -> None:
    of_ipv4, of_ipv6 = (read_sockets(buffer(message(a, 1)))[0] for a in ("10.99.0.1", "::ffff:10.99.0.1"))
    assert of_ipv4["local"].tobytes() == of_ipv6["local"].tobytes() == ip_address("::ffff:10.99.0.1").packed
    assert of_ipv4["remote"].tobytes() == ip_address("::ffff:192.0.2.7").packed
    real = read_sockets(buffer(message("2001:db8::1", 1)))[0]
    assert real["local"].tobytes() == ip_address("2001:db8::1").packed


def test_a_time_wait_socket_is_one_in_whatever_state_it_began() -> None:
    """FIN-WAIT-2 may be a connection or not: only the timer shows it."""
    found, _ = read_sockets(buffer(message("10.99.0.1", 1, state=5), message("10.99.0.1", 2, state=5, timer=3)))
    assert found["state"].tolist() == [5, 6]


def test_the_cookie_has_64_bits() -> None:
    one = bytearray(message("10.99.0.1", 1))
    one[60:68] = bytes(range(1, 9))
    assert read_sockets(memoryview(one))[0]["cookie"].tolist() == [0x0807060504030201]


@pytest.mark.parametrize("kind", [2, 3])
def test_the_error_at_the_end_of_a_dump_is_returned(kind: int) -> None:
    assert read_sockets(buffer(message("10.99.0.1", 1), end(-errno.ENOENT, kind)))[1] == errno.ENOENT


@pytest.mark.parametrize("cut", [1, 4, 60, 100])
def test_a_truncated_message_is_an_error(cut: int) -> None:
    whole = message("10.99.0.1", 1) + message("10.99.0.1", 2)
    with pytest.raises(OSError, match="truncated"):
        read_sockets(buffer(whole[:-cut]))


def test_a_length_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(OSError, match="truncated"):
        read_sockets(buffer(HEADER.pack(0, 20, 2, 1, 0), bytes(88)))
