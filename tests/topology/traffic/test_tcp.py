# SPDX-License-Identifier: Apache-2.0
"""The client and the server over real TCP, in a namespace of their own:

    client 10.1.1.0/24 ── lo ── server 10.99.0.1:7000

Each failure that the demo counts happens here one by one; a run without failures is the control.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_for

from topology.traffic.controller import TrafficController

pytestmark = pytest.mark.lab

Start = Callable[..., subprocess.Popen[bytes]]
SILENCE_S = 8.0
"""After so long without an answer a connection is broken: half of what it is without the option."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command in a network namespace that ends with this test, with all its processes."""
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    namespace = f"/proc/{holder.pid}/ns/net"
    processes = [holder]

    def run(*argv: str, wait: bool = False) -> subprocess.Popen[bytes]:
        # nsenter without --fork execs: the pid is the command's.
        process = subprocess.Popen(["nsenter", f"--net={namespace}", *argv])
        processes.append(process)
        if wait:
            assert process.wait() == 0
        return process

    try:
        wait_for(lambda: os.readlink(namespace) != os.readlink("/proc/self/ns/net"))
        run("ip", "link", "set", "lo", "up", wait=True)
        run("ip", "address", "add", "10.99.0.1/32", "dev", "lo", wait=True)
        run("ip", "route", "add", "local", "10.1.1.0/24", "dev", "lo", wait=True)
        yield run
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def server(start: Start) -> Callable[[str], subprocess.Popen[bytes]]:
    return lambda name: start(sys.executable, "-m", "topology.traffic.server", "--name", name)


@pytest.fixture
def traffic(start: Start, tmp_path: Path) -> Iterator[TrafficController]:
    control = tmp_path / "control"
    process = start(sys.executable, "-m", "topology.traffic", "--control", str(control), "--silence", f"{SILENCE_S:g}")
    traffic = TrafficController.connect(control)
    yield traffic
    traffic.quit()
    assert process.wait(timeout=60) == 0, "the client must end with its controller"


def opened(traffic: TrafficController, count: int) -> None:
    traffic.open(count)
    wait_for(lambda: traffic.progress().open == count)


def outcomes(traffic: TrafficController, since: float = 0.0) -> Counter[str]:
    return Counter(one.outcome for one in traffic.report()[1] if one.outcome and one.started_at >= since)


def test_nothing_breaks_while_nothing_happens(server: Callable[[str], object], traffic: TrafficController) -> None:
    server("b1")
    traffic.fresh(100)
    opened(traffic, 60)
    wait_for(lambda: outcomes(traffic)["ok"] >= 50)
    now = time.monotonic()
    wait_for(lambda: traffic.progress(now).unsettled == 0)
    traffic.begin()
    now = time.monotonic()
    wait_for(lambda: outcomes(traffic, now)["ok"] >= 50)
    held, attempts = traffic.report()
    assert Counter((one.state, one.owner) for one in held) == {("open", "b1"): 60}
    # Each sends every 100 ms, so the longest silence is that plus what this machine delays.
    assert 0.09 < max(one.silence_s for one in held) < SILENCE_S
    assert {one.outcome for one in attempts} <= {"ok", ""}
    assert {one.owner for one in attempts} <= {"b1", ""}
    assert traffic.close_held("b9") == 0
    assert traffic.close_held("b1") == 60
    assert {one.state for one in traffic.report()[0]} == {"closed"}


def test_a_killed_server_breaks_its_connections_and_refuses_new_ones(
    server: Callable[[str], subprocess.Popen[bytes]], traffic: TrafficController
) -> None:
    process = server("b1")
    opened(traffic, 40)
    traffic.fresh(50)
    killed_at = time.monotonic()
    process.kill()
    wait_for(lambda: traffic.progress().open == 0)
    noticed_at = time.monotonic()
    held, _ = traffic.report()
    assert Counter(one.state for one in held) == {"broken": 40}
    # A killed process's sockets send FIN, or RST where something was still unread.
    assert {one.reason for one in held} <= {"eof", "reset"}
    assert all(killed_at <= one.ended_at <= noticed_at for one in held)
    wait_for(lambda: outcomes(traffic, killed_at)["refused"] >= 5)

    traffic.begin()
    server("b2")
    opened(traffic, 10)
    held, attempts = traffic.report()
    assert {one.owner for one in held if one.state == "open"} == {"b2"}
    assert {one.owner for one in attempts if one.outcome == "ok"} <= {"b2"}


def test_a_silent_server_is_noticed(
    server: Callable[[str], subprocess.Popen[bytes]], traffic: TrafficController
) -> None:
    """A stopped process neither answers nor resets: its kernel goes on accepting. Only a timeout shows it."""
    process = server("b1")
    opened(traffic, 20)
    # Shorter than the limit it is only a silence.
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: min(one.silence_s for one in traffic.report()[0]) > 1.0)
    process.send_signal(signal.SIGCONT)
    now = time.monotonic()
    wait_for(lambda: traffic.progress(now).unsettled == 0)
    held, _ = traffic.report()
    assert {one.state for one in held} == {"open"}
    assert min(one.silence_s for one in held) > 1.0

    stopped_at = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    traffic.fresh(20)
    wait_for(lambda: outcomes(traffic, stopped_at)["timeout"] >= 3)
    assert set(outcomes(traffic, stopped_at)) == {"timeout"}
    wait_for(lambda: traffic.progress().open == 0)
    held, _ = traffic.report()
    assert Counter((one.state, one.reason) for one in held) == {("broken", "silence"): 20}
    assert min(one.ended_at for one in held) >= stopped_at + SILENCE_S - 0.2


def test_http_health_and_lines_in_pieces(start: Start, server: Callable[[str], object], tmp_path: Path) -> None:
    server("b4")
    script = tmp_path / "ask.py"
    script.write_text(
        "import socket, time\n"
        "def ask(*pieces, want):\n"
        "    s = socket.create_connection(('10.99.0.1', 7000)); got = b''\n"
        "    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
        "    for piece in pieces: s.sendall(piece); time.sleep(0.05)\n"
        "    while want not in got:\n"
        "        data = s.recv(4096); assert data, got; got += data\n"
        "for _ in range(1200):\n"
        "    try: socket.create_connection(('10.99.0.1', 7000)).close(); break\n"
        "    except ConnectionRefusedError: time.sleep(0.05)\n"
        "ask(b'GET /health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n', want=b'HTTP/1.1 200 OK')\n"
        "ask(b'GET /else HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n', want=b'HTTP/1.1 404 Not Found')\n"
        "ask(b'1\\n2', b'3\\n4\\n', want=b'b4 1\\nb4 23\\nb4 4\\n')\n"
    )
    start(sys.executable, str(script), wait=True)


def test_datagrams_are_answered_only_if_wanted(start: Start, tmp_path: Path) -> None:
    for port, options in (("7000", ["--datagrams"]), ("7001", [])):
        start(sys.executable, "-m", "topology.traffic.server", "--name", "s1", "--port", port, *options)
    script = tmp_path / "ask.py"
    script.write_text(
        "import socket, time\n"
        "def ask(port):\n"
        "    s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('10.99.0.1', port)); s.settimeout(60)\n"
        "    s.send(b'17\\n'); return s.recv(100)\n"
        "for port in (7000, 7001):\n"
        "    for _ in range(1200):\n"
        "        try: socket.create_connection(('10.99.0.1', port)).close(); break\n"
        "        except ConnectionRefusedError: time.sleep(0.05)\n"
        "assert ask(7000) == b's1 17\\n'\n"
        "try: ask(7001); raise AssertionError\n"
        "except ConnectionRefusedError: pass\n"
    )
    start(sys.executable, str(script), wait=True)


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        argv = [sys.executable, "-m", "topology.traffic.server", "--port", str(port)]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr == f"echo server: port {port}: Address already in use; stop the program that listens there\n"
