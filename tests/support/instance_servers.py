# SPDX-License-Identifier: Apache-2.0
"""Server processes that share a port, and a client that counts what each new connection gets."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VIP, VIP6 = "192.0.2.10", "2001:db8::10"
ANY = "0.0.0.0"  # noqa: S104 - in a namespace without a network
PORT = 18080

SERVER = """
import signal, socket, sys, time
name, address, reuse, pause_s = sys.argv[1], sys.argv[2], sys.argv[3] == "reuse", float(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
listener = socket.socket(family)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if reuse:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind((address, int(sys.argv[5])))
listener.listen(1024)
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    time.sleep(pause_s)
    connection.sendall(name.encode())
    connection.close()
"""
"""Answers each connection with its name, and closes it. Its executable is the interpreter."""


UDP_SERVER = """
import socket, sys
name, address = sys.argv[1], sys.argv[2]
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind((address, int(sys.argv[5])))
print("listens", flush=True)
while True:
    _, client = one.recvfrom(100)
    one.sendto(name.encode(), client)
"""
"""Answers each datagram with its name."""


KEEPING_SERVER = """
import asyncio, sys
async def answer(reader, writer):
    writer.write(sys.argv[1].encode())
    while await reader.readline():
        writer.write(sys.argv[1].encode())
async def main():
    server = await asyncio.start_server(answer, sys.argv[2], int(sys.argv[5]), reuse_port=True, backlog=1024)
    print("listens", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
"""Answers each connection, and each line of it, with its name (asyncio). It closes none."""

CPU_SERVER = """
import os, socket, sys, threading
name, address, bind = sys.argv[1], sys.argv[2], sys.argv[3]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
def serve(listener, cpu):
    if bind == "threads":
        os.sched_setaffinity(0, {cpu})
        pinned.wait()
    while True:
        connection, _ = listener.accept()
        connection.sendall(f"{name} {cpu}".encode())
        connection.close()
cpus = sorted(os.sched_getaffinity(0))
pinned = threading.Barrier(len(cpus) + 1)
# Listeners that are bound are not in the order of the CPUs.
for cpu in cpus if bind == "threads" else cpus[::-1]:
    one = socket.socket(family)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if bind == "listeners":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_INCOMING_CPU, cpu)
    one.bind((address, int(sys.argv[5])))
    one.listen(1024)
    threading.Thread(target=serve, args=(one, cpu), daemon=True).start()
if bind == "threads":
    pinned.wait()
print("listens", flush=True)
threading.Event().wait()
"""
"""Has a listener for each CPU. Binds them to it, or its threads, or nothing; answers with its name and the CPU."""


class Server:
    """A running server process. It leaves its number in a pidfile of its name."""

    def __init__(
        self,
        folder: Path,
        name: str,
        address: str = ANY,
        reuse: bool = True,
        pause_s: float = 0.0,
        udp: bool = False,
        by_cpu: str = "",
        keeps: bool = False,
        port: int = PORT,
        user: str = "root",
    ) -> None:
        self.name, self.pidfile = name, folder / f"{name}.pid"
        program = CPU_SERVER if by_cpu else KEEPING_SERVER if keeps else UDP_SERVER if udp else SERVER
        argv = [
            "setpriv",
            f"--reuid={user}",
            sys.executable,
            "-S",
            "-c",
            program,
            name,
            address,
            by_cpu or ("reuse" if reuse else "alone"),
            str(pause_s),
        ]
        self._process = subprocess.Popen([*argv, str(port)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listens\n"
        self.pid = self._process.pid
        self.pidfile.write_text(f"{self.pid}\n")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Servers(contextlib.ExitStack):
    """Servers that end with the context."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def start(self, name: str, **options: Any) -> Server:
        """Start a server and wait until it listens."""
        server = Server(self.folder, name, **options)
        self.callback(server.kill)
        return server


def answers(count: int = 40, vip: str = VIP, port: int = PORT) -> dict[str, int]:
    """Return how many of so many new connections each server answered, by name."""
    found: dict[str, int] = {}
    for _ in range(count):
        with socket.create_connection((vip, port), timeout=10) as connection:
            name = connection.recv(100).decode()
        found[name] = found.get(name, 0) + 1
    return found


LOAD = """
import os, socket, sys, threading, time
address, port, request = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
total = refused = broken = 0
gap, last = 0.0, time.monotonic()
def connect():
    global total, refused, broken, gap, last
    total += 1
    try:
        connection = socket.create_connection((address, port), timeout=10)
    except OSError:
        refused += 1
        return
    with connection:
        try:
            connection.sendall(request)
            broken += not connection.recv(100)
        except OSError:
            broken += 1
    now = time.monotonic()
    gap, last = max(gap, now - last), now
def answer_requests():
    global gap
    for _ in sys.stdin:
        print(total, refused, broken, gap, time.monotonic() - start, flush=True)
        gap = 0.0
    os._exit(0)
start = time.monotonic()
threading.Thread(target=answer_requests).start()
while True:
    connect()
"""
"""Reports what it counted, a line for each line that it reads."""


class Load:
    """A client that opens one connection after the other, for as long as the context lasts."""

    total = refused = broken = 0
    gap_s = 0.0
    """The longest time between two answers, since the start or `start_gap`."""
    seconds = 0.0

    def __init__(self, address: str, request: str = "") -> None:
        argv = [sys.executable, "-S", "-c", LOAD, address, str(PORT), request]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> None:
        """Read what has been counted so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        total, refused, broken, gap, seconds = self._process.stdout.readline().split()
        self.total, self.refused, self.broken = int(total), int(refused), int(broken)
        self.gap_s, self.seconds = max(self.gap_s, float(gap)), float(seconds)

    def start_gap(self) -> None:
        """Measure the longest gap from now on."""
        self.read()
        self.gap_s = 0.0

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more connections were opened."""
        self.read()
        target = self.total + count
        while self.total < target:
            self.read()
            time.sleep(0.005)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.read()
        self._process.communicate()

    def __str__(self) -> str:
        return (
            f"{self.total} connections, {self.total / self.seconds:.0f} a second, {self.refused} refused, "
            f"{self.broken} broken, longest gap {1000 * self.gap_s:.0f} ms"
        )
