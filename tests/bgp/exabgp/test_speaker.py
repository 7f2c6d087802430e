# SPDX-License-Identifier: Apache-2.0
"""The start of ExaBGP: its refusals, its privileges, its files, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from support.relay_process import AgentConnection

from bgp.errors import BgpError
from bgp.exabgp import speaker
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.relay.protocol import DesiredRoutes
from bgp.route import Route

NOBODY = 65534

# No router answers there, and no packet leaves this machine's loopback.
PEER = NeighborConfig(IPv4Address("127.0.0.2"), 65000, IPv4Address("127.0.0.1"), 3)
CONFIG = SpeakerConfig(65001, IPv4Address("10.0.0.11"), (PEER,))
RUN = (
    "import sys; from pathlib import Path; from ipaddress import IPv4Address as A; import bgp\n"
    "print(bgp.__file__, flush=True)\n"
    "from bgp.exabgp.config import *; from bgp.exabgp.speaker import *\n"
    "from ipaddress import ip_network as n; ALLOW = (n('10.99.0.0/24'), n('2001:db8::/32'))\n"
    "peer = NeighborConfig(A(sys.argv[3] if len(sys.argv) > 3 else '127.0.0.2'), 65000, A('127.0.0.1'), 3)\n"
    "me, run_dir = A('10.0.0.11'), Path(sys.argv[1])\n"
    "try: run(SpeakerConfig(65001, me, (peer,), user=sys.argv[2], run_dir=run_dir, allow=ALLOW))\n"
    "except BgpError as error: sys.exit(str(error))"
)


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in /run, which every user can enter."""
    path = Path(f"/run/anylb-bgp-test-{os.getpid()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def started(
    run_dir: Path, log: Path, env: dict[str, str] | None = None, peer: str = "127.0.0.2"
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(run_dir), "nobody", peer], stdout=file, stderr=file, env=env, cwd="/"
        )
    try:
        deadline = time.monotonic() + 20
        while not (run_dir / "relay.sock").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def router(address: str) -> Iterator[None]:
    """A neighbor that sends only OPEN and KEEPALIVE, enough to keep a session up (RFC 4271 sections 4.2 and 4.4)."""
    marker = b"\xff" * 16
    capabilities = b"\x02\x06\x01\x04\0\x01\0\x01" + b"\x02\x06\x41\x04" + (65000).to_bytes(4)
    opened = b"\x04" + (65000).to_bytes(2) + (90).to_bytes(2) + b"\x0a\0\0\x01" + bytes([len(capabilities)])
    open_message = marker + (29 + len(capabilities)).to_bytes(2) + b"\x01" + opened + capabilities
    keepalive = marker + (19).to_bytes(2) + b"\x04"

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(open_message + keepalive)
                while connection.recv(4096):
                    connection.sendall(keepalive)

    with socket.create_server((address, 179)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def refused(run_dir: Path, user: str = "nobody", *prefix: str) -> str:
    argv = [*prefix, sys.executable, "-c", RUN, str(run_dir), user]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


def status(pid: int, field: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{field}:"))


def relay_of(process: subprocess.Popen[bytes]) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


@pytest.mark.parametrize(("found", "message"), [("4.2.21", "too old"), ("5.0.14", "too old"), ("6.0.0", "too new")])
def test_wrong_version_of_exabgp_is_refused(found: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: found)
    with pytest.raises(BgpError, match=message):
        speaker.run(CONFIG)


def test_missing_exabgp_is_refused(monkeypatch: pytest.MonkeyPatch):
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BgpError, match=r"not installed.*pip install"):
        speaker.run(CONFIG)


def test_invalid_user_is_refused(run_dir: Path):
    assert "user 'no-such-user' does not exist" in refused(run_dir, "no-such-user")
    assert "is root" in refused(run_dir, "root")
    # Not root, but with access to closed directories: the project may be in one.
    setpriv = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    setpriv += ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    assert "only root can start ExaBGP as user 'daemon'" in refused(run_dir, "daemon", *setpriv)
    assert not run_dir.exists()


@pytest.mark.slow
def test_runs_unprivileged_in_its_own_directory_and_only_once(run_dir: Path, tmp_path: Path):
    with started(run_dir, tmp_path / "log") as process:
        relay = relay_of(process)
        assert b"exabgp" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "the process id is that of ExaBGP"
        for pid in (process.pid, relay):
            assert status(pid, "Uid") == [str(NOBODY)] * 4
            assert status(pid, "Gid") == [str(NOBODY)] * 4
            assert status(pid, "Groups") == []
            assert status(pid, "CapEff") == ["0000000000000000"]
        mode = {path.name: (path.stat().st_uid, stat.filemode(path.stat().st_mode)) for path in run_dir.iterdir()}
        assert mode == {
            "lock": (0, "-rw-------"),
            "exabgp.conf": (0, "-rw-r-----"),
            "exabgp.env": (0, "-rw-r-----"),
            "relay.pyz": (0, "-rw-r-----"),
            "bfd.pyz": (0, "-rw-r-----"),
            "bfd.json": (0, "-rw-r-----"),
            "allow": (0, "-rw-r-----"),
            "relay.sock": (NOBODY, "srw-rw-rw-"),
            ".allow.spare": (0, "-rw-r-----"),
            ".bfd.json.spare": (0, "-rw-r-----"),
            ".exabgp.conf.spare": (0, "-rw-r-----"),
        }
        assert (run_dir.stat().st_uid, stat.filemode(run_dir.stat().st_mode)) == (0, "drwxrwx--T")
        assert f"already runs here (pid {process.pid})" in refused(run_dir)
        assert process.poll() is None, "the second attempt did not disturb the first"
        os.kill(relay, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not (children := current_relay(process)) or children == relay:
            assert time.monotonic() < deadline, "no new relay"
            time.sleep(0.01)
        assert "already runs here" in refused(run_dir), "the relay does not hold the lock"
    with started(run_dir, tmp_path / "log"):
        pass  # starts at once after SIGKILL
    assert "environment file missing" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_lock_that_the_bgp_user_planted_and_holds_is_replaced(run_dir: Path, tmp_path: Path):
    run_dir.mkdir()
    lock = run_dir / "lock"
    lock.touch()
    os.chown(lock, NOBODY, NOBODY)
    with lock.open() as planted:
        fcntl.flock(planted, fcntl.LOCK_EX)
        with started(run_dir, tmp_path / "log") as process:
            assert lock.read_text() == f"{process.pid}\n"
            assert (lock.stat().st_uid, lock.stat().st_mode & 0o777) == (0, 0o600)


@pytest.mark.slow
def test_adj_rib_out_of_exabgp_contains_every_attribute_of_a_route(run_dir: Path, tmp_path: Path):
    """The relay compares ExaBGP's list with its own routes, and reports a lost attribute as an error."""
    plain = Route.of("10.99.0.1/32", "10.0.0.11")
    full = Route.of(
        "10.99.0.2/32", "10.0.0.11", [[65001, 1, 2]], communities=[[65535, 65281], [65535, 0], [1, 2]], med=7, prepend=3
    )
    # An address of its own: the same test may run at the same time from another clone.
    pid = os.getpid()
    peer = f"127.{64 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"
    log = tmp_path / "log"
    with router(peer), started(run_dir, log, peer=peer):
        agent = AgentConnection(run_dir / "relay.sock")
        for desired in ((plain, full), (plain, replace(full, med=0, prepend=0, communities=())), (full,)):
            agent.socket.sendall(DesiredRoutes(desired, ()).encode())
            prefixes = {route.prefix for route in desired}
            snapshot = agent.receive_until(lambda s, wanted=prefixes: s.error or s.peers[0].announced == wanted)
            assert snapshot.error is None, log.read_text()


def current_relay(process: subprocess.Popen[bytes]) -> int | None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.slow
def test_sigterm_ends_exabgp_and_its_relay(run_dir: Path, tmp_path: Path):
    with started(run_dir, tmp_path / "log") as process:
        relay = relay_of(process)
        process.terminate()
        assert process.wait(10) == 0
        deadline = time.monotonic() + 5
        while Path(f"/proc/{relay}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.slow
def test_project_in_a_directory_that_only_root_can_enter(run_dir: Path, tmp_path: Path):
    """Like a clone in /root: ExaBGP imports its code before it drops root, and the relay runs from its archive."""
    closed = tmp_path / "closed"
    for package in ("exabgp", "bgp"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, closed / package, ignore=ignore)
    closed.chmod(0o700)
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["setpriv", f"--reuid={NOBODY}", "ls", str(closed)], check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(closed)}
    with started(run_dir, tmp_path / "log", env) as process:
        deadline = time.monotonic() + 10
        # It tries to connect, is refused, logs that, and continues, all after dropping root.
        while "neighbor 127.0.0.2: session down: connection refused" not in (log := (tmp_path / "log").read_text()):
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
    assert log.startswith(str(closed)), "imported from the closed copy"
    assert "Error" not in log, log
