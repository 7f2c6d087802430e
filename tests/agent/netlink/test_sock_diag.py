# SPDX-License-Identifier: Apache-2.0
"""The socket of a flow, asked of the real kernel: what a packet of the flow would find."""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from support.waiting import wait_for

from agent.model import Flow, LocalSocket
from agent.netlink import sock_diag
from agent.netlink.message import NLMSG_DONE, NLMSG_ERROR, Message
from agent.netlink.sock_diag import find_socket

LOOPBACK = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


def flow_of(protocol: str, client: tuple[str, int], server: tuple[str, int]) -> Flow:
    return Flow(protocol, ip_address(client[0]), client[1], ip_address(server[0]), server[1])


@contextlib.contextmanager
def server(bound: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET, kind) as one:
        if bound == "::":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind((bound, 0))
        if kind is socket.SOCK_STREAM:
            one.listen()
        yield one


@pytest.mark.parametrize(("bound", "to"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_a_tcp_connection_lives_and_ends_in_time_wait(bound: str, to: str) -> None:
    """`::`: a server of both families has its IPv4 connections in IPv6 sockets."""
    with server(bound) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((to, port)) as client:
            source = client.getsockname()[1]
            accepted, _ = listener.accept()
            flow = flow_of("tcp", (to, source), (to, port))
            assert find_socket(flow) is LocalSocket.CONNECTION
            assert find_socket(flow, socket.if_nametoindex("lo")) is LocalSocket.CONNECTION
            unknown = flow_of("tcp", (to, source ^ 1), (to, port))
            assert find_socket(unknown) is LocalSocket.LISTENER
            accepted.close()  # the server closes first: TIME-WAIT is its
            assert client.recv(1) == b""
        wait_for(lambda: find_socket(flow) is LocalSocket.TIME_WAIT, "TIME-WAIT")
    assert find_socket(unknown) is LocalSocket.NONE


@pytest.mark.parametrize(("bound", "to"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_a_udp_socket_counts_once_it_is_connected_to_the_client(bound: str, to: str) -> None:
    with server(bound, socket.SOCK_DGRAM) as one:
        port, family = one.getsockname()[1], one.family
        flow = flow_of("udp", (to, 4000), (to, port))
        assert find_socket(flow) is LocalSocket.LISTENER
        one.connect((f"::ffff:{to}" if family is socket.AF_INET6 and ":" not in to else to, 4000))
        assert find_socket(flow) is LocalSocket.CONNECTION
        assert find_socket(flow_of("udp", (to, 4001), (to, port))) is LocalSocket.NONE
    assert find_socket(flow) is LocalSocket.NONE


@pytest.mark.parametrize(
    "end", [Message(NLMSG_ERROR, 1, struct.pack("=i", -errno.ENOENT)), Message(NLMSG_DONE, 1, struct.pack("=i", -2))]
)
def test_a_kernel_without_inet_diag_is_an_error_and_not_no_socket(
    monkeypatch: pytest.MonkeyPatch, end: Message
) -> None:
    """It answers ENOENT for both; only the dump distinguishes them."""
    answers = iter([Message(NLMSG_ERROR, 1, struct.pack("=i", -errno.ENOENT)), end])
    monkeypatch.setattr(sock_diag, "_ask", lambda _: next(answers))
    with pytest.raises(OSError, match="the kernel has no udp_diag"):
        find_socket(flow_of("udp", ("127.0.0.1", 1), ("127.0.0.1", 2)))
