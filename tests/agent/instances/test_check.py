# SPDX-License-Identifier: Apache-2.0
"""Which checks are made for each instance, and what a program of one gets to know about its instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.instance_servers import VIP, Servers, answers
from support.instances import by_pidfile, of_services, running
from support.waiting import wait_for

from agent.instances.check import can_check


@pytest.mark.parametrize(
    ("protocol", "health", "steer", "can"),
    [
        ("tcp", {"type": "tcp"}, None, True),
        ("tcp", {"type": "http", "port": 443}, None, True),
        ("tcp", {"type": "tcp", "port": 80}, None, False),
        ("tcp", {"type": "tcp", "address": "127.0.0.1", "port": 8080}, "127.0.0.1:8080", True),
        ("tcp", {"type": "udp", "send": "x", "port": 443}, None, False),
        ("udp", {"type": "udp", "send": "x"}, None, True),
        ("udp", {"type": "tcp", "port": 443}, None, False),
        ("udp", {"type": "exec", "command": ["/bin/true"], "user": "nobody"}, None, True),
    ],
)
def test_which_checks_can_ask_each_instance(
    protocol: str, health: dict[str, Any], steer: str | None, can: bool
) -> None:
    instances = {"match": {"unit": "a.service"}} | ({"steer": steer} if steer else {})
    service = {"name": "web", "vip": VIP, "protocol": protocol, "port": 443, "health": health, "instances": instances}
    assert can_check(of_services(service).services[0]) == can


@pytest.mark.slow
def test_a_program_is_started_for_each_instance(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """It succeeds unless a file has the name of its instance; the process is the pidfile's."""
    servers.start("blue")
    servers.start("green")
    bad = tmp_path / "bad"
    bad.write_text("")
    shell = (
        f'[ "$ANYLB_SERVICE $ANYLB_INSTANCE_PID" = "web $(cat {tmp_path}/$ANYLB_INSTANCE.pid)" ]'
        f' && [ "$ANYLB_INSTANCE" != "$(cat {bad})" ]'
    )
    health = {"type": "exec", "command": ["/bin/sh", "-c", shell], "user": "root", "interval_s": 0.5, "rise": 1}
    with running(by_pidfile(tmp_path, health), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
        bad.write_text("blue")
        wait_for(lambda: keeper.states() == {"blue": "unhealthy", "green": "active"})
        assert answers() == {"green": 40}
        bad.write_text("")
        wait_for(lambda: keeper.states() == {"blue": "active", "green": "standby"})
