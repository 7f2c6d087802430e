# SPDX-License-Identifier: Apache-2.0
"""What the kernel queues for the echo's socket, on loopback addresses."""

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from agent.address import Address, Network
from agent.liveness.socket_filter import MAX_INSTRUCTIONS, socket_filter

ECHO, CHANNEL, OTHER, SHORT = b"LBEC....", b"LBCH....", b"LBXX....", b"LB"


@contextlib.contextmanager
def filtered(own: str, prefixes: list[Network], not_from: Address | None) -> Iterator[socket.socket]:
    version = 6 if ":" in own else 4
    program = socket_filter(version, prefixes, not_from)
    buffer = ctypes.create_string_buffer(program)
    with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as opened:
        header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
        opened.setsockopt(socket.SOL_SOCKET, 26, header)
        opened.bind((own, 0))
        yield opened


def accepted(
    own: str, prefixes: list[Network], source: str, *datagrams: bytes, not_from: Address | None = None
) -> list[bytes]:
    with filtered(own, prefixes, not_from) as opened, socket.socket(opened.family, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        for datagram in datagrams:
            sender.sendto(datagram, opened.getsockname())
        opened.setblocking(False)
        received = []
        with contextlib.suppress(BlockingIOError):  # over loopback a datagram is queued when sendto returns
            while True:
                received.append(opened.recv(100))
        return received


def test_only_echoes_and_the_channel() -> None:
    found = accepted("127.0.0.1", [], "127.0.0.2", ECHO, OTHER, SHORT, b"", CHANNEL, b"x" * 1000)
    assert found == [ECHO, CHANNEL]


@pytest.mark.parametrize(
    ("source", "inside"),
    [("127.1.2.3", True), ("127.1.2.255", True), ("127.1.3.1", False), ("127.9.9.9", True), ("127.9.9.8", False)],
)
def test_only_from_node_prefixes(source: str, inside: bool) -> None:
    prefixes = [ip_network("2001:db8::/32"), ip_network("127.1.2.0/24"), ip_network("127.9.9.9/32")]
    assert accepted("127.0.0.1", prefixes, source, ECHO) == [ECHO] * inside


@pytest.mark.parametrize(
    ("prefix", "inside"), [("::/120", True), ("::1/128", True), ("::2/128", False), ("::/0", True), ("8000::/1", False)]
)
def test_ipv6(prefix: str, inside: bool) -> None:
    assert accepted("::1", [ip_network("10.0.0.0/8"), ip_network(prefix)], "::1", ECHO, OTHER) == [ECHO] * inside


@pytest.mark.parametrize(
    ("own", "other"), [("127.1.2.3", "127.1.2.4"), ("127.1.2.3", "127.1.0.3"), ("::1", "::2"), ("::1", "1::1")]
)
@pytest.mark.parametrize("prefixes", [[], [ip_network("127.1.0.0/16"), ip_network("::/0")]], ids=["any", "inside"])
def test_local_users_of_this_node_cannot_fill_the_queue(own: str, other: str, prefixes: list[Network]) -> None:
    """They have no other source address than the node's own."""
    assert accepted(own, prefixes, own, ECHO, CHANNEL, not_from=ip_address(own)) == []
    assert accepted(own, prefixes, own, ECHO, not_from=ip_address(other)) == [ECHO]


def test_more_prefixes_than_fit_into_a_program() -> None:
    many = list(ip_network("10.0.0.0/8").subnets(new_prefix=21))
    assert len(socket_filter(4, many)) <= 8 * MAX_INSTRUCTIONS
    assert accepted("127.0.0.1", [ip_network("127.0.0.0/8"), *many], "127.0.0.1", ECHO) == [ECHO]
