# SPDX-License-Identifier: Apache-2.0
"""The demo, its negative control asserted too; and that it cleans up, however it ends.

`make test` runs fewer steps, with BIRD. `make proof` runs all of them with FRR (`--demo-router frr --whole-demo`).

client ── router ── segment ── b1 b2 b3 b4 b5 b6     twice: with anylb, and as plain ECMP anycast
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import wait_for

from topology.demo.report import CONTROL_STEPS
from topology.demo.scenario import SMALL, STEPS
from topology.lab import record
from topology.lab.process import find_inits

pytestmark = pytest.mark.lab

DEMO = [sys.executable, "-m", "topology.demo"]


def labs_of(pid: int) -> set[str]:
    return {lab for lab, _, _ in find_inits() if lab.endswith(f"-{pid}")}


@pytest.mark.timeout(1200)
def test_anylb_keeps_every_connection_where_plain_ecmp_does_not(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    router, output = pytestconfig.getoption("demo_router"), tmp_path / "demo.json"
    whole = pytestconfig.getoption("whole_demo")
    extent = [] if whole else ["--small"]
    process = subprocess.Popen(
        [*DEMO, *extent, "--router", router, "--json", str(output), "--logs", str(tmp_path / "logs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output_text, _ = process.communicate(timeout=1100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output_text
    assert labs_of(process.pid) == set()

    data = json.loads(output.read_text())
    assert data["router"] == router
    rows = {(row["step"], row["lab"]): row for row in data["steps"]}
    steps = [step.name for step in (STEPS if whole else SMALL)]
    assert list(rows) == [(step, lab) for step in steps for lab in ("anylb", "ecmp")]
    for step in steps:
        ours, plain = rows[step, "anylb"], rows[step, "ecmp"]
        assert ours["connections"] == plain["connections"] == 400
        assert ours["broken"] == 0, output_text
        assert plain["agree_ms"] is None
        if step in CONTROL_STEPS:
            assert plain["broken"] >= 0.1 * (400 - plain["on_stopped"]), output_text
        if step in ("service_down", "crash"):
            assert ours["on_stopped"] > 0
        else:
            assert (ours["on_stopped"], ours["failed_new"]) == (0, 0), output_text
    assert rows["spread", "ecmp"]["broken"] == 0  # the steps break the control's connections, not the control itself


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen([*DEMO, "--small", "--json", str(tmp_path / "demo.json")], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(labs_of(process.pid)) == 2)
        process.send_signal(number)
        code = process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: labs_of(process.pid) == set())
    if number == signal.SIGKILL:
        record.remove_stale()  # only its record outlives it; the next run removes that
    records = {name for name in record.names() if name.endswith(f"-{process.pid}")}
    assert records == set()
    assert list(tmp_path.iterdir()) == []


def test_missing_requirements_are_reported_and_nothing_is_created(tmp_path: Path) -> None:
    argv = [*DEMO, "--router", "frr", "--json", str(tmp_path / "no" / "demo.json")]
    result = subprocess.run(argv, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert "demo: ip not found: apt-get install iproute2" in lines
    assert "demo: ethtool not found: apt-get install ethtool" in lines
    assert any(line.startswith("demo: vtysh") and line.endswith("apt-get install frr") for line in lines)
    assert f"demo: {tmp_path}/no/demo.json: cannot be written; name another file with --json" in lines
    assert list(tmp_path.iterdir()) == []


def test_without_root_the_demo_reports_it(tmp_path: Path) -> None:
    # A user namespace without a mapping: the same files, another user id.
    argv = ["unshare", "--user", *DEMO, "--json", str(tmp_path / "demo.json")]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "demo: not root: network namespaces and BPF need it; run it with sudo\n"
