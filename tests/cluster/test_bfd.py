# SPDX-License-Identifier: Apache-2.0
"""BFD for an operator: two lines of lb.yml, the router's configuration from lbctl, and lbctl status.

b1 10.0.0.11 ── router 10.0.0.1 (BIRD)
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.waiting import wait_for

from agent.cli.main import main
from topology.lab.lab import Lab

pytestmark = pytest.mark.lab

CONFIG = """
cluster: 4242
node: {interface: eth1}
services: [{name: web, vip: 10.99.0.1, protocol: tcp, port: 7000}]
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers: [{address: 10.0.0.1, as: 65000, hold_time_s: 90, bfd: {interval_ms: 500, multiplier: 10}}]
members: {allow: [10.0.0.0/24], key: none}
xdp: {mode: "off"}
"""
UP = "10.0.0.1 up (BFD up, detection time 5000 ms)"
"""As long as processes that get no CPU for seconds are not silent for too long."""
LAB = """
name: bfd-status
topology:
  defaults: {kind: linux, image: anylb/lab, network-mode: none}
  nodes:
    router:
      binds: ["bird.conf:/etc/bird/bird.conf:ro"]
      exec:
        - ip address add 10.0.0.1/24 dev eth1
        - mkdir -p /run/bird
        - bird -c /etc/bird/bird.conf
    b1:
      binds: ["lb.yml:/etc/anylb/lb.yml:ro"]
      exec: [ip address add 10.0.0.11/24 dev eth1]
  links:
    - {endpoints: ["b1:eth1", "router:eth1"], mtu: 1500}
"""


def test_status_shows_bfd(tmp_path: Path) -> None:
    (tmp_path / "lb.yml").write_text(CONFIG)
    (tmp_path / "bfd.clab.yml").write_text(LAB)
    printed = CliRunner().invoke(
        main, ["announce", "config", "--router", "bird", "-c", str(tmp_path / "lb.yml"), "--node", "b1=10.0.0.11"]
    )
    assert printed.exit_code == 0, printed.output
    (tmp_path / "bird.conf").write_text(printed.output)
    with Lab.up(tmp_path / "bfd.clab.yml", f"bfd-status-{os.getpid()}", keep=False) as lab:
        lab.spawn("b1", ["lbctl", "bgp", "run"], log=tmp_path / "bgp.log")
        lab.spawn("b1", ["lbctl", "agent", "run"], log=tmp_path / "agent.log")

        def bfd() -> dict[str, Any]:
            done = lab.exec("b1", ["lbctl", "status", "-o", "json"], check=False)
            peers = json.loads(done.stdout)["bgp"]["peers"] if done.returncode == 0 else []
            return (peers[0]["bfd"] or {}) if peers else {}

        def text() -> str:
            return lab.exec("b1", ["lbctl", "status"], check=False).stdout

        expected = {"state": "up", "interval_ms": 500, "detection_ms": 5000}
        wait_for(lambda: expected.items() <= bfd().items(), "BFD")
        wait_for(lambda: UP in text(), "the same as text")
        bird = int(lab.exec("router", ["pidof", "bird"]).stdout)
        os.kill(_host_pid(lab, "router", bird), signal.SIGSTOP)
        wait_for(lambda: bfd().get("state") == "down", "BFD to be down")
        wait_for(lambda: "(BFD down: the neighbor was silent for too long)" in text(), "the same as text")


def _host_pid(lab: Lab, node: str, pid: int) -> int:
    """Return the host pid of a process of a node."""
    init = lab.nodes[node].pid
    children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    for child in children:
        inside = next(x for x in Path(f"/proc/{child}/status").read_text().splitlines() if x.startswith("NSpid"))
        if int(inside.split()[-1]) == pid:
            return int(child)
    raise AssertionError(f"{node} has no process {pid}")
