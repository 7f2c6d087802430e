# SPDX-License-Identifier: Apache-2.0
"""A running cluster, steered by lbctl: what an operator says holds at once, and after the agent's restart.

client 10.1.0.2, 10.1.1.0/24 ── router ── segment ── b1 b2 b3 b4        topology/segment.clab.yml
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_for

from topology.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

LBCTL = str(Path(sys.executable).with_name("lbctl"))
NODES = ("b1", "b2", "b3", "b4")
CONNECT = """
import socket, sys
with socket.socket() as sock:
    sock.settimeout(1.5)
    sock.bind((sys.argv[1], 0))
    sock.connect(("10.99.0.1", 7000))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    running = Lab.up(
        Path(__file__).parents[2] / "topology/segment.clab.yml", name=f"deny-{os.getpid()}", env={}, keep=False
    )
    try:
        for node in NODES:
            wait_for(lambda node=node: ready(running, node))
        yield running
    finally:
        running.down()


def lbctl(lab: Lab, node: str, *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(lab.exec(node, [LBCTL, *words, "-o", "json"], timeout=30).stdout)
    return answer


def ready(lab: Lab, node: str) -> bool:
    result = lab.exec(node, [LBCTL, "status", "-o", "json"], check=False, timeout=30)
    if result.returncode:
        return False
    told = json.loads(result.stdout)
    up = [member for member in told["members"] if member["state"] == "up"]
    return bool(told["ready"] and len(up) == len(NODES) and all(vip["announced"] for vip in told["vips"]))


def connects(lab: Lab, source: str) -> bool:
    return lab.exec("client", [sys.executable, "-c", CONNECT, source], check=False, timeout=30).returncode == 0


def test_who_is_denied_stays_out_until_let_in_again(lab: Lab) -> None:
    assert connects(lab, "10.1.1.1")
    for node in NODES:
        told = lbctl(lab, node, "deny", "add", "10.1.1.1/32")
        assert told["denied"] == [{"prefix": "10.1.1.1/32", "configured": False}]
    assert not connects(lab, "10.1.1.1")
    assert connects(lab, "10.1.1.2"), "the others are let in"
    assert lbctl(lab, "b1", "explain", "tcp,10.1.1.1:4000,10.99.0.1:7000")["denied"] == "10.1.1.1/32"

    lab.exec("b1", ["sh", "-c", "kill $(cat /run/anylb/agent.lock)"])
    wait_for(lambda: lab.exec("b1", [LBCTL, "status"], check=False, timeout=30).returncode == 3)
    assert not connects(lab, "10.1.1.1"), "nor without an agent"
    lab.spawn("b1", [LBCTL, "agent", "run"])
    wait_for(lambda: ready(lab, "b1"))
    assert [entry["prefix"] for entry in lbctl(lab, "b1", "deny", "list")["denied"]] == ["10.1.1.1/32"]
    assert not connects(lab, "10.1.1.1")

    for node in NODES:
        assert lbctl(lab, node, "deny", "del", "10.1.1.1/32")["denied"] == []
    assert connects(lab, "10.1.1.1")
    again = lab.exec("b1", [LBCTL, "deny", "del", "10.1.1.1/32"], check=False)
    assert (again.returncode, again.stderr) == (1, "lbctl: 10.1.1.1/32 is not denied; see `lbctl deny list`\n")


def test_all_nodes_explain_a_flow_alike(lab: Lab) -> None:
    flows = [f"tcp,10.1.1.{i}:4000,10.99.0.1:7000" for i in range(4)]
    for flow in flows:
        told = [lbctl(lab, node, "explain", flow) for node in NODES]
        assert len({(answer["row"], tuple(answer["chain"])) for answer in told}) == 1
        assert len(told[0]["chain"]) == 4
        assert told[0]["affinity"] == "5-tuple"
    assert len({lbctl(lab, "b1", "explain", flow)["chain"][0] for flow in flows}) > 1
