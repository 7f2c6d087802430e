# SPDX-License-Identifier: Apache-2.0
"""The dump of sockets, asked of the real kernel: what is in it, and what is not."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

import numpy as np
import pytest
from support.waiting import wait_for

from agent.connections import dump as dump_module
from agent.connections.dump import dump

ESTABLISHED, TIME_WAIT = 1, 6
HERE = "127.77.0.1"
"""An address of the loopback that no other process listens on."""


@contextlib.contextmanager
def server(bound: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET, kind) as one:
        if bound == "::":
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind((bound, 0))
        if kind is socket.SOCK_STREAM:
            one.listen(512)
        yield one


def found(protocol: str, local: str, port: int, time_wait: bool = False) -> list[tuple[str, int, int]]:
    """Return address and port of the other end, and the state, of each socket with that local end."""
    sockets = np.concatenate(list(dump(protocol, [ip_address(local)], time_wait)))
    own = sockets[sockets["local_port"] == socket.htons(port)]
    ends = [(IPv6Address(one["remote"].tobytes()), socket.ntohs(int(one["remote_port"])), one["state"]) for one in own]
    assert len({one["local"].tobytes() for one in sockets}) <= 1, "the kernel filters by address"
    return sorted((str(address.ipv4_mapped or address), port, int(state)) for address, port, state in ends)


@pytest.mark.parametrize(("bound", "to"), [("0.0.0.0", HERE), ("::", HERE), ("::", "::1")])  # noqa: S104
def test_a_connection_is_there_from_its_handshake_until_its_end(bound: str, to: str) -> None:
    with server(bound) as listener:
        port = listener.getsockname()[1]
        assert found("tcp", to, port) == []
        with socket.create_connection((to, port)) as client:
            end = client.getsockname()[:2]
            accepted, _ = listener.accept()
            assert found("tcp", to, port) == [(*end, ESTABLISHED)]
            accepted.close()  # the server closes first: TIME-WAIT is its
            assert client.recv(1) == b""
        wait_for(lambda: found("tcp", to, port) == [], "the connection's end")
        assert found("tcp", to, port, time_wait=True) == [(*end, TIME_WAIT)]


def test_connections_of_other_addresses_are_not_sent() -> None:
    with server("0.0.0.0") as listener:  # noqa: S104
        port = listener.getsockname()[1]
        with socket.create_connection((HERE, port)), socket.create_connection(("127.77.0.2", port)):
            assert len(found("tcp", HERE, port)) == 1
            both = [ip_address(HERE), ip_address("127.77.0.2"), ip_address("::1")]
            assert len(np.concatenate(list(dump("tcp", both)))) == 2
            # More addresses than the kernel's program has conditions: it sends all.
            many = [ip_address("127.78.0.0") + i for i in range(100)]
            assert len(np.concatenate(list(dump("tcp", many)))) >= 4


@pytest.mark.parametrize(("bound", "to"), [("0.0.0.0", HERE), ("::", HERE), ("::", "::1")])  # noqa: S104
def test_a_udp_socket_is_there_once_it_is_connected(bound: str, to: str) -> None:
    with server(bound, socket.SOCK_DGRAM) as one:
        port = one.getsockname()[1]
        assert found("udp", to, port) == []
        one.connect((f"::ffff:{to}" if ":" in bound and ":" not in to else to, 4000))
        local = one.getsockname()[0].removeprefix("::ffff:")  # the kernel chose it
        assert found("udp", local, port) == [(to, 4000, ESTABLISHED)]


def test_many_connections_come_in_chunks_and_in_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once: those in the backlog, those accepted, and TIME-WAIT, whose messages are shorter."""
    monkeypatch.setattr(dump_module, "_CHUNK", dump_module._DATAGRAM + (1 << 14))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(server("0.0.0.0"))  # noqa: S104
        port = listener.getsockname()[1]
        clients = [stack.enter_context(socket.create_connection((HERE, port))) for _ in range(450)]
        for _ in range(300):
            stack.enter_context(listener.accept()[0])
        closed = listener.accept()[0]
        closed.close()
        chunks = list(dump("tcp", [ip_address(HERE)], time_wait=True))
        assert len(chunks) > 2
        ends = found("tcp", HERE, port, time_wait=True)
        assert [end[:2] for end in ends] == sorted(client.getsockname() for client in clients)


def test_a_kernel_without_inet_diag_is_an_error_and_not_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_module, "dump_request", lambda *_: _request_of_no_protocol())
    with pytest.raises(OSError, match="sock_diag: ") as raised:
        list(dump("tcp", [ip_address(HERE)]))
    assert raised.value.errno in (errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT)


def _request_of_no_protocol() -> bytes:
    request = bytearray(_real_request("tcp", 4, 0xFFF, []))
    request[17] = 254
    return bytes(request)


_real_request = dump_module.dump_request
