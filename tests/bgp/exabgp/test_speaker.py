# SPDX-License-Identifier: Apache-2.0
"""ExaBGP's configuration, checked by ExaBGP itself, and how the process starts, refuses to start and ends."""

from __future__ import annotations

import base64
import contextlib
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
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from bgp.bfd.config import BfdTimers
from bgp.errors import BgpError
from bgp.exabgp import renderer, speaker
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp.renderer import render, render_env
from bgp.exabgp.speaker import validate
from bgp.relay.protocol import DesiredRoutes, Snapshot, decode_report
from bgp.route import Route

NOBODY = 65534
# TEST-NET-1 (RFC 5737): nobody answers, and nothing leaves this machine's loopback.
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
    """A place as /run is: below directories that anyone may cross."""
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
    """A neighbor that says as little as keeps a session up (RFC 4271 sections 4.2 and 4.4)."""
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


def test_exabgp_accepts_what_is_rendered():
    other = replace(PEER, address=IPv4Address("127.0.0.3"), hold_time_s=90, bfd=BfdTimers())
    two = replace(CONFIG, peers=(PEER, other))
    validate(render(two), render_env(two))


def test_exabgp_accepts_every_option_of_a_neighbor():
    here, there = IPv6Address("2001:db8::b"), IPv6Address("2001:db8::1")
    local = replace(PEER, address=IPv6Address("fe80::1"), local_address=IPv6Address("fe80::b"), interface="lo")
    peers = (
        replace(PEER, local_as=65009, password=bytes(range(1, 81)), multihop=3, graceful_restart_s=60),
        replace(PEER, address=there, local_address=here, ttl_security=True, passive=True, families=("ipv6", "ipv4")),
        local,
    )
    config = replace(CONFIG, peers=peers)
    text = render(config)
    validate(text, render_env(config))
    assert "api relay-fe80--1 " in text
    assert text.count("outgoing-ttl 1;") == 1, "the one neighbor next door without GTSM"


def test_a_reload_finds_in_the_old_configuration_where_exabgp_listens():
    here = IPv6Address("2001:db8::b")
    six = replace(PEER, address=IPv6Address("2001:db8::1"), local_address=here, passive=True, password=b"x", bfd=None)
    active = replace(PEER, address=IPv4Address("127.0.0.4"), local_address=IPv4Address("127.0.0.9"))
    passive = replace(PEER, address=IPv4Address("127.0.0.5"), local_address=IPv4Address("127.0.0.8"), passive=True)
    config = replace(CONFIG, peers=(active, six, passive))
    assert renderer.listen_addresses(render(config)) == config.listen_addresses == {here, IPv4Address("127.0.0.8")}
    assert renderer.listen_addresses(render(CONFIG)) == set()


def test_no_message_quotes_a_password():
    config = replace(CONFIG, peers=(replace(PEER, password=b"correct horse"),))
    text = render(config)
    assert "correct horse" not in text
    assert "correct horse" not in repr(config)
    encoded = base64.b64encode(b"correct horse").decode()
    with pytest.raises(BgpError, match=r"^exabgp refuses") as caught:
        validate(text.replace("md5-password", "md5-passwort"), hidden=renderer.secrets(config))
    assert encoded not in str(caught.value)
    assert "md5-passwort" in str(caught.value)


def test_exabgp_s_own_complaint_is_the_error():
    with pytest.raises(BgpError, match=r"^exabgp refuses .*hold-time 2 .*at least 3 seconds") as caught:
        validate(render(CONFIG).replace("hold-time 3;", "hold-time 2;"))
    assert "\n" not in str(caught.value)


def test_settings_are_taken_by_exabgp(tmp_path: Path):
    """A misspelt or unknown setting would silently not count; what ExaBGP says of itself is the proof."""
    path = tmp_path / "exabgp.env"
    path.write_text(render_env(CONFIG))
    said = subprocess.run(
        [sys.executable, "-m", "exabgp", "env", "--env"],
        env={**os.environ, "EXABGP_ENVFILE": str(path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    section = ""
    for line in render_env(CONFIG).splitlines():
        if line.startswith("["):
            section = line[1:-1]
            continue
        name, _, value = line.partition(" = ")
        spellings = {
            f"{section}.{name}={value}",
            f"{section}.{name}='{value}'",
            f"{section}.{name}='{value.strip(chr(39))}'",
        }
        assert spellings & set(said), line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hold_time_s": 2}, "hold time 2 s is not in 3-65535"),
        ({"local_address": IPv6Address("::1")}, "another family"),
        ({"password": b""}, "has 0 bytes, not 1-80"),
        ({"password": b"x" * 81}, "has 81 bytes, not 1-80"),
        ({"interface": "eth1"}, "needs an interface"),
        ({"ttl_security": True, "multihop": 2}, "GTSM"),
    ],
)
def test_peers_that_cannot_be(change: dict[str, object], message: str):
    with pytest.raises(BgpError, match=message):
        replace(PEER, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peers": ()}, "no neighbor"),
        ({"peers": (PEER, PEER)}, "configured twice"),
        ({"peers": (replace(PEER, peer_as=0),)}, "AS number 0"),
        ({"local_as": 1 << 32}, "AS number"),
        ({"run_dir": Path("/run/a b")}, "spaces"),
    ],
)
def test_config_that_cannot_be(change: dict[str, object], message: str):
    with pytest.raises(BgpError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("found", "message"), [("4.2.21", "too old"), ("5.0.14", "too old"), ("6.0.0", "too new")])
def test_wrong_exabgp(found: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: found)
    with pytest.raises(BgpError, match=message):
        speaker.run(CONFIG)


def test_missing_exabgp(monkeypatch: pytest.MonkeyPatch):
    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BgpError, match=r"not installed.*pip install"):
        speaker.run(CONFIG)


def test_users_that_cannot_be(run_dir: Path):
    assert "user 'no-such-user' does not exist" in refused(run_dir, "no-such-user")
    assert "is root" in refused(run_dir, "root")
    # Not root, but let past closed directories: the project may be in one.
    setpriv = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    setpriv += ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    assert "only root can start ExaBGP as user 'daemon'" in refused(run_dir, "daemon", *setpriv)
    assert not run_dir.exists()


def test_runs_unprivileged_in_its_own_directory_and_once(run_dir: Path, tmp_path: Path):
    with started(run_dir, tmp_path / "log") as process:
        relay = relay_of(process)
        assert b"exabgp" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "the pid is ExaBGP's own"
        for pid in (process.pid, relay):
            assert status(pid, "Uid") == [str(NOBODY)] * 4
            assert status(pid, "Gid") == [str(NOBODY)] * 4
            assert status(pid, "Groups") == []
            assert status(pid, "CapEff") == ["0000000000000000"]
        mode = {path.name: (path.stat().st_uid, stat.filemode(path.stat().st_mode)) for path in run_dir.iterdir()}
        assert mode == {
            "lock": (0, "-rw-r--r--"),
            "exabgp.conf": (0, "-rw-r-----"),
            "exabgp.env": (0, "-rw-r-----"),
            "relay.pyz": (0, "-rw-r-----"),
            "bfd.pyz": (0, "-rw-r-----"),
            "bfd.json": (0, "-rw-r-----"),
            "allow": (0, "-rw-r-----"),
            "relay.sock": (NOBODY, "srw-------"),
        }
        assert (run_dir.stat().st_uid, stat.filemode(run_dir.stat().st_mode)) == (0, "drwxrwxr-t")
        assert f"already runs here (pid {process.pid})" in refused(run_dir)
        assert process.poll() is None, "the second attempt did not disturb the first"
        os.kill(relay, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not (children := relay_now(process)) or children == relay:
            assert time.monotonic() < deadline, "no new relay"
            time.sleep(0.01)
        assert "already runs here" in refused(run_dir), "the lock is not the relay's"
    with started(run_dir, tmp_path / "log"):
        pass  # after kill -9, at once
    assert "environment file missing" not in (tmp_path / "log").read_text()


def test_exabgp_takes_every_attribute_of_a_route_and_lists_it_again(run_dir: Path, tmp_path: Path):
    """The relay compares what ExaBGP lists with what it said, so an attribute that is lost is an error of its."""
    plain = Route.of("10.99.0.1/32", "10.0.0.11")
    full = Route.of(
        "10.99.0.2/32", "10.0.0.11", [[65001, 1, 2]], communities=[[65535, 65281], [65535, 0], [1, 2]], med=7, prepend=3
    )
    # An address of its own: the same test may run beside, from another clone.
    pid = os.getpid()
    peer = f"127.{64 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"
    log = tmp_path / "log"
    with router(peer), started(run_dir, log, peer=peer), socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(20)
        agent.connect(str(run_dir / "relay.sock"))
        reports = agent.makefile("rb")
        for wish in ((plain, full), (plain, replace(full, med=0, prepend=0, communities=())), (full,)):
            agent.sendall(DesiredRoutes(wish, ()).encode())
            while True:
                said = decode_report(reports.readline())
                assert isinstance(said, Snapshot)
                assert said.error is None, log.read_text()
                if said.peers[0].announced == {route.prefix for route in wish}:
                    break


def relay_now(process: subprocess.Popen[bytes]) -> int | None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


def test_sigterm_ends_it_and_its_relay(run_dir: Path, tmp_path: Path):
    with started(run_dir, tmp_path / "log") as process:
        relay = relay_of(process)
        process.terminate()
        assert process.wait(10) == 0
        deadline = time.monotonic() + 5
        while Path(f"/proc/{relay}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_project_below_a_directory_that_only_root_can_enter(run_dir: Path, tmp_path: Path):
    """As a clone in /root: ExaBGP has imported its code before it drops root; the relay has been carried out."""
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
        # It tries to connect, is refused, reports it, and goes on: all of that after dropping root.
        while "connection to 127.0.0.2 closed" not in (log := (tmp_path / "log").read_text()):
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
    assert log.startswith(str(closed)), "ours was the closed copy"
    assert "Error" not in log, log
