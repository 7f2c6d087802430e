# SPDX-License-Identifier: Apache-2.0
"""Instances that listen elsewhere, on 127.0.0.1:18080, and get the connections to 192.0.2.10:443."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
from support.instance_servers import PORT, VIP, VIP6, Servers, answers
from support.instances import config, of_services, running, steered
from support.waiting import wait_for

LOOPBACK = "127.0.0.1"
TARGET = f"{LOOPBACK}:{PORT}"


def refused(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((VIP, port)) != 0


@pytest.mark.parametrize("steer", [TARGET, "auto"])
def test_the_primary_then_the_standby_then_without_an_agent(
    servers: Servers, bpffs: Path, tmp_path: Path, steer: str
) -> None:
    blue = servers.start("blue", address=LOOPBACK)
    servers.start("green", address=LOOPBACK)
    assert refused(443)
    settings = steered(tmp_path, steer)
    with running(settings, bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert answers(port=443) == {"blue": 40}
        blue.kill()
        assert answers(port=443) == {"green": 40}
        wait_for(lambda: keeper.states() == {"green": "active"})
        servers.start("blue", address=LOOPBACK)
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        assert answers(port=443) == {"blue": 40}
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        assert answers(port=443) == {"green": 40}
        assert keeper.keeper.problems == ()
    assert answers(port=443) == {"green": 40}, "without an agent"
    with running(settings, bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "standby", "green": "active"}, "the next agent knows the choice")
        assert answers(port=443) == {"green": 40}
        servers.close()
        wait_for(lambda: keeper.states() == {})
        assert refused(443)


@pytest.mark.slow
def test_removed_pins_are_made_again(
    servers: Servers, bpffs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So what was chosen and steered outlives the agent, and its successor finds it."""
    servers.start("blue", address=LOOPBACK)
    servers.start("green", address=LOOPBACK)
    settings = steered(tmp_path, TARGET)
    with running(settings, bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        keeper.call(keeper.keeper.requests.switch(None, "green"))
        before = sorted(bpffs.rglob("*"))
        for name in ("steering", "instances"):
            shutil.rmtree(bpffs / name)
        wait_for(lambda: sorted(bpffs.rglob("*")) == before, "the pins")
        assert "the pins of instances were removed, and were made again" in caplog.text
        assert keeper.keeper.problems == ()
    assert answers(port=443) == {"green": 40}, "without an agent"
    with running(config(None), bpffs, tmp_path):
        wait_for(lambda: refused(443))


@pytest.mark.slow
def test_pins_that_cannot_be_made_again_are_a_problem(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue", address=LOOPBACK)
    with running(steered(tmp_path, TARGET), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        (folder,) = (bpffs / "instances").iterdir()
        shutil.rmtree(bpffs / "steering")
        (bpffs / "steering").symlink_to(tmp_path)  # on no bpffs
        wait_for(lambda: keeper.keeper.problems != ())
        (line,) = keeper.keeper.problems
        assert line.startswith("the pins of instances were removed, and cannot be made again: cannot pin at ")
        assert folder.is_dir()
        assert answers(port=443) == {"blue": 40}
        (bpffs / "steering").unlink()
        wait_for(lambda: keeper.keeper.problems == ())


def test_a_server_without_reuseport_is_enough_alone(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue", address=LOOPBACK, reuse=False)
    with running(steered(tmp_path, TARGET), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        assert answers(port=443) == {"blue": 40}
        blue.kill()
        assert refused(443)
        servers.start("blue", address=LOOPBACK, reuse=False)
        wait_for(lambda: not refused(443))
        assert keeper.keeper.problems == ()


def test_what_is_no_longer_steered_is_removed(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue", address=LOOPBACK)
    with running(steered(tmp_path, TARGET), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
    assert not refused(443)
    with running(steered(tmp_path, TARGET, port=444), bpffs, tmp_path) as keeper:
        wait_for(lambda: refused(443))
        wait_for(lambda: not refused(444))
    with running(config(None), bpffs, tmp_path):
        wait_for(lambda: not (bpffs / "instances").exists() and not (bpffs / "steering").exists())
        assert refused(444)


def test_any_port_but_those_of_another_service(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue", address=LOOPBACK)
    other = {"name": "ssh", "vip": VIP, "protocol": "tcp", "port": 22}
    settings = steered(tmp_path, TARGET, "any", other, health={"type": "tcp", "port": 5})
    with running(settings, bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        assert answers(port=1) == answers(port=65_535) == {"blue": 40}
        assert refused(22)


@pytest.mark.slow
def test_each_instance_is_checked_through_the_vip(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    blue = servers.start("blue", address=LOOPBACK)
    servers.start("green", address=LOOPBACK)
    health = {"type": "tcp", "expect": "e", "interval_s": 0.5, "timeout_s": 0.5, "rise": 1}
    with running(steered(tmp_path, TARGET, health=health), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        os.kill(blue.pid, signal.SIGSTOP)
        wait_for(lambda: keeper.states() == {"blue": "unhealthy", "green": "active"})
        assert answers(port=443) == {"green": 40}


def test_a_service_of_each_family_with_one_server(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """It listens on all addresses of both families, and each service's setting names its own."""
    servers.start("blue", address="::")
    match = {"pidfile": str(tmp_path / "blue.pid")}
    services = [
        {"name": name, "vip": vip, "protocol": "tcp", "port": 443, "instances": {"match": match, "steer": steer}}
        for name, vip, steer in (("web", VIP, TARGET), ("web6", VIP6, f"[::1]:{PORT}"))
    ]
    with running(of_services(*services), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        assert answers(port=443) == answers(vip=VIP6, port=443) == {"blue": 40}


@pytest.mark.slow
def test_auto_finds_a_server_whose_pidfile_is_written_after_it_listens(
    servers: Servers, bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.instances.pool.PATIENCE_S", 1000.0)  # however slow this machine is
    servers.start("green", address=LOOPBACK)
    with running(steered(tmp_path, "auto"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"green": "active"})
        (pool,) = keeper.keeper._pools.values()
        before = len(pool._seen or ())
        blue = servers.start("other", address=LOOPBACK)
        wait_for(lambda: len(pool._seen or ()) > before)
        with pool._open:
            pass  # the look that saw it is over
        (tmp_path / "blue.pid").write_text(f"{blue.pid}\n")
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"}, timeout_s=20)


def test_auto_with_servers_on_several_ports_is_named(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    servers.start("blue", address=LOOPBACK)
    with running(steered(tmp_path, "auto"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        other = servers.start("green", address=LOOPBACK, port=PORT + 1)
        line = f"web: its instances listen on several ports, {PORT}, {PORT + 1}: set steer to ADDRESS:PORT"
        wait_for(lambda: line in keeper.keeper.problems)
        assert answers(port=443) == {"blue": 40}, "what was found first stays in force"
        other.kill()
        wait_for(lambda: keeper.keeper.problems == ())
