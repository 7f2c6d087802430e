# SPDX-License-Identifier: Apache-2.0
"""Unmodified servers from Debian as instances: nginx is the primary, HAProxy the standby, on one port, under load.

Both have a master and workers; nginx has a listener for each worker (`reuseport`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.instance_servers import PORT, VIP, Load, Servers
from support.instances import Running, by_pidfile, running
from support.waiting import wait_for

pytestmark = pytest.mark.slow

REQUEST = "GET / HTTP/1.0\r\n\r\n"
NGINX = """
worker_processes 2; daemon off; pid {folder}/blue.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{ access_log off; server {{ listen {port} reuseport; location / {{ return 200 "blue"; }} }} }}
"""
HAPROXY = """
global
    master-worker
    pidfile {folder}/green.pid
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend green
    bind :{port}
    http-request return status 200 content-type text/plain string green
"""


@contextlib.contextmanager
def server(folder: Path, name: str, text: str, *argv: str) -> Iterator[int]:
    """Run a server with a configuration; return its main process, once its pidfile is written."""
    configuration = folder / f"{name}.conf"
    configuration.write_text(text.format(folder=folder, port=PORT))
    pidfile = folder / f"{name}.pid"
    pidfile.unlink(missing_ok=True)
    process = subprocess.Popen([*argv, str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: pidfile.exists() and pidfile.read_text().strip().isdigit(), f"{name}'s pidfile")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def answers() -> set[str]:
    def one() -> str:
        with urllib.request.urlopen(f"http://{VIP}:{PORT}/", timeout=10) as response:
            return str(response.read().decode())

    return {one() for _ in range(20)}


def listeners(keeper: Running) -> dict[str, int]:
    status = keeper.keeper.status("web")
    return {one["name"]: one["listeners"] for one in status["instances"]} if status else {}


def test_nginx_before_haproxy(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    nginx = tmp_path, "blue", NGINX, "nginx", "-c"
    with (
        server(tmp_path, "green", HAPROXY, "haproxy", "-W", "-f") as haproxy,
        running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper,
    ):
        wait_for(lambda: keeper.states() == {"green": "active"})
        with Load(VIP, REQUEST) as load:
            with server(*nginx) as master:
                wait_for(lambda: listeners(keeper) == {"blue": 2, "green": 1})
                wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
                assert answers() == {"blue"}
                os.kill(master, signal.SIGHUP)  # reload: other workers, the same listeners
                load.wait_for_more(200)
                assert answers() == {"blue"}
                keeper.call(keeper.keeper.requests.switch(None, "green"))
                assert answers() == {"green"}
                before = children(haproxy)
                os.kill(haproxy, signal.SIGUSR2)  # reload: another worker, which gets the listener
                wait_for(lambda: children(haproxy) and not children(haproxy) & before)
                load.wait_for_more(200)
                assert answers() == {"green"}
            wait_for(lambda: keeper.states() == {"green": "active"})
            load.wait_for_more(200)
        print(load)
        assert (load.refused, load.broken) == (0, 0)


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
