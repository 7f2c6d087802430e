# SPDX-License-Identifier: Apache-2.0
"""TCP and UDP probes, with and without an expected answer."""

import asyncio
import errno
import os
import socket
from ipaddress import IPv4Address

import pytest
from support.service import half_closes, hangs, probe, probe_once, probe_server, repeats, resets, sends

from agent.health.connection import connect


def test_tcp_connection() -> None:
    assert probe_server(hangs) == (True, "accepts connections")


def test_tcp_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening
        port = bound.getsockname()[1]
        assert probe(port) == (False, f"127.0.0.1:{port}: Connection refused")


def test_an_address_that_is_not_here() -> None:
    async def main() -> None:
        async with connect(IPv4Address("192.0.2.1"), 80):
            pass

    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
        asyncio.run(main())


def test_a_socket_connected_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bind = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda one, to: bind(one, (to[0], port)))
    assert probe(port) == (False, f"127.0.0.1:{port}: Connection refused")


def test_a_stopped_process_accepts_but_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stopped:  # nothing calls accept
        port = stopped.getsockname()[1]
        assert probe(port)[0]
        assert probe(port, send="PING", expect="PONG", timeout_s=0.1) == (
            False, f"no answer on 127.0.0.1:{port} in 0.1 s",
        )  # fmt: skip


def test_tcp_banner_without_send() -> None:
    assert probe_server(repeats(b"SSH-2.0-OpenSSH", b"\n"), expect="SSH-2.0") == (True, "answers as expected")


def test_tcp_send_and_expect() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got ")
        await writer.drain()
        writer.write(await reader.readexactly(4))
        await reader.read()
        writer.close()

    assert probe_server(echo, send={"hex": "ff 00 0d 0a"}, expect={"hex": "20ff000d0a"})[0]


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (sends(b"-ERR \x1b[31m\xff down\n"), "answered '-ERR \\x1b[31m\\xff down\\n', expected '+PONG\\r\\n'"),
        (half_closes, "answered '', expected"),
        (hangs, "no answer"),
        (resets, "127.0.0.1:"),
        (repeats(b"", b"x" * 1000), "sent 64 KiB without what is expected"),
    ],
)
def test_tcp_wrong_answers(handler: object, why: str) -> None:
    good, reason = probe_server(handler, send="PING\r\n", expect="+PONG\r\n", timeout_s=0.2 if handler is hangs else 60)
    assert (good, reason[: len(why)]) == (False, why)


def udp(answer: bytes | None, **settings: object) -> tuple[bool, str]:
    """One probe of a UDP server that sends this back, or nothing."""

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, addr: object) -> None:
            if answer is not None:
                self.transport.sendto(answer + data, addr)

    async def main() -> tuple[bool, str]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        try:
            return await probe_once(transport.get_extra_info("sockname")[1], type="udp", **settings)
        finally:
            transport.close()

    return asyncio.run(main())


def test_udp() -> None:
    assert udp(b"re: ", send="hi") == (True, "answers as expected")
    assert udp(b"re: ", send="hi", expect="re: hi") == (True, "answers as expected")
    assert udp(b"\x07", send="hi", expect="re: ") == (False, "answered '\\x07hi', expected 're: '")
    assert udp(b"x" * 60_000, send="hi", expect="y")[0] is False


def test_udp_without_an_answer() -> None:
    assert udp(None, send="hi", timeout_s=0.1)[1].startswith("no answer on 127.0.0.1:")
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert probe(port, type="udp", send="hi") == (False, f"127.0.0.1:{port}: Connection refused")
