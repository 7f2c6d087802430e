# SPDX-License-Identifier: Apache-2.0
"""The lab's service: an echo server, TCP and if wanted UDP, that names itself in every answer.

Owns the server's end of the protocol and nothing else. One line in, one line out:

    client → server   17\\n
    server → client   b3 17\\n

so the client of a connection knows which server serves it. `GET /health` on the same port answers HTTP 200, for
health checks by HTTP. It listens on every address: the VIP is added to `lo` later than the server starts. With
`--datagrams` it answers datagrams to the same port too, each as one line.

One epoll loop without a framework: in the demo ten of these share two cores with ten BGP speakers, ten agents and two
routers, and an asyncio stream costs three times as much per message.
"""

import argparse
import contextlib
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

PORT = 7000
#: A line longer than this is not the lab's client; the connection is closed.
LINE_MAX = 4096
#: How many connections one wake-up accepts before established ones are served again.
ACCEPT_BATCH = 64


def answer(name: str, data: bytes) -> bytes:
    """Answer the complete lines in `data` (which ends with a newline), in order.

    A request line of HTTP ends the conversation, see `is_http`.
    """
    prefix = name.encode() + b" "
    return b"".join(prefix + line + b"\n" for line in data[:-1].split(b"\n"))


def is_http(data: bytes) -> bool:
    """Return whether data is an HTTP request, not a line of the echo protocol, whose lines are decimal numbers."""
    return data.startswith((b"GET ", b"HEAD "))


def http_answer(name: str, request: bytes) -> bytes:
    """Answer a health check: 200 for /health, 404 for any other path. The connection is closed after it."""
    path = request.split(b" ", 2)[1].split(b"\r")[0] if request.count(b" ") else b""
    status = b"200 OK" if path == b"/health" else b"404 Not Found"
    body = name.encode() + b"\n"
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


class EchoServer:
    """The listening socket and its connections."""

    def __init__(  # every address: see above
        self,
        name: str,
        address: str = "0.0.0.0",  # noqa: S104
        port: int = PORT,
        datagrams: bool = False,
    ) -> None:
        self.name = name
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # A restarted server gets its port at once.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: an answer never waits for an acknowledgement.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._listener.bind((address, port))
        except OSError:
            self._listener.close()
            raise
        self._listener.listen(4096)
        self._connections: dict[int, socket.socket] = {}
        self._partial: dict[int, bytes] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._datagrams: socket.socket | None = None
        if datagrams:
            self._datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._datagrams.bind((address, self.port))
            self._epoll.register(self._datagrams.fileno(), select.EPOLLIN)

    @property
    def port(self) -> int:
        """The port it listens on (useful when asked for port 0)."""
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self) -> NoReturn:
        """Accept and answer until the process ends."""
        listener = self._listener.fileno()
        while True:
            for descriptor, _events in self._epoll.poll():
                if descriptor == listener:
                    self._accept()
                elif self._datagrams is not None and descriptor == self._datagrams.fileno():
                    self._answer_datagram(self._datagrams)
                else:
                    self._read(descriptor)

    def _answer_datagram(self, datagrams: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it had a wrong checksum, or the answer has no route
            data, client = datagrams.recvfrom(LINE_MAX)
            datagrams.sendto(answer(self.name, data.rstrip(b"\n") + b"\n"), client)

    def _accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                connection, _peer = self._listener.accept()
            except OSError:  # none left, or the client gave up meanwhile
                return
            connection.setblocking(False)
            self._connections[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        connection = self._connections[descriptor]
        try:
            data = connection.recv(LINE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        # The client closes first, always: it has the TIME-WAIT then, not the servers.
        if not data:
            self._close(descriptor)
            return
        if self._partial:
            data = self._partial.pop(descriptor, b"") + data
        if is_http(data):
            with contextlib.suppress(OSError):
                connection.send(http_answer(self.name, data))
            self._close(descriptor)
            return
        end = data.rfind(b"\n") + 1
        if end < len(data):
            self._partial[descriptor] = data[end:]
        try:
            if end:
                connection.send(answer(self.name, data[:end]))
        except OSError:  # reset, or a client that sends and never reads
            self._close(descriptor)
            return
        if len(data) - end > LINE_MAX:
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._partial.pop(descriptor, None)
        self._connections.pop(descriptor).close()  # this removes it from the epoll set


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return an exit code only if that fails."""
    parser = argparse.ArgumentParser(prog="python -m topology.traffic.server", description="The lab's echo server.")
    parser.add_argument("--name", default=socket.gethostname(), help="its name in every answer (default: host name)")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--address", default="0.0.0.0", help="the address to listen on; :: for IPv6 and IPv4")  # noqa: S104
    parser.add_argument("--datagrams", action="store_true", help="answer UDP too")
    options = parser.parse_args(argv)
    try:
        server = EchoServer(options.name, options.address, options.port, options.datagrams)
    except OSError as error:
        print(
            f"echo server: port {options.port}: {error.strerror}; stop the program that listens there", file=sys.stderr
        )
        return 1

    def end(_signal: int, _frame: object) -> None:
        # At once: its sockets close with it, as those of a stopped service do.
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
