# SPDX-License-Identifier: Apache-2.0
"""The capabilities of the agent's unit, with and without what instances.conf adds, for servers of another user."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.handing_server import HandingServer, accepts
from support.instance_servers import Servers
from support.waiting import wait_for

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "agent/systemd"
KEEPER = """
import sys
from pathlib import Path
from support.instances import by_pidfile, running
from support.waiting import wait_for
folder, bpffs, state = sys.argv[1:]
with running(by_pidfile(Path(folder)), Path(bpffs), Path(folder)) as keeper:
    wait_for(lambda: "active" in keeper.states().values() if state == "active" else keeper.keeper.problems)
    print(keeper.states(), *keeper.keeper.problems, sep="\\n")
"""


def capabilities(*files: str) -> str:
    """Return what units allow, as setpriv(1) takes it."""
    listed = [" ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", (UNITS / name).read_text(), re.M)) for name in files]
    names = " ".join(listed).lower().replace("cap_", "+").split()
    return ",".join(["-all", *names])


STARTED: dict[str, Any] = {
    "env": {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "PATH": "/usr/bin:/bin"},
    "stdout": subprocess.PIPE,
    "text": True,
}


def keeper(*files: str, arguments: list[object]) -> list[str]:
    """Return the command of a keeper with the capabilities of these units."""
    limits = ["setpriv", "--no-new-privs", f"--bounding-set={capabilities(*files)}", "--inh-caps=-all"]
    return [*limits, sys.executable, "-c", KEEPER, *map(str, arguments)]


@pytest.mark.parametrize(
    ("files", "state", "shown"),
    [
        pytest.param(
            ["lb-agent.service"],
            "refused",
            "the agent needs CAP_SYS_PTRACE: install the drop-in instances.conf",
            marks=pytest.mark.slow,
        ),
        (["lb-agent.service", "instances.conf"], "active", "{'blue': 'active', 'green': 'standby'}"),
    ],
)
def test_the_unit_may_take_listeners_with_its_drop_in(
    servers: Servers, bpffs: Path, tmp_path: Path, files: list[str], state: str, shown: str
) -> None:
    servers.start("blue", user="nobody")
    servers.start("green", user="nobody")  # the kernel lets only processes of one user share a port
    with subprocess.Popen(keeper(*files, arguments=[tmp_path, bpffs, state]), **STARTED) as process:
        assert shown in process.communicate(timeout=120)[0]


@pytest.mark.slow
def test_the_unit_needs_no_more_rights_for_listeners_that_are_handed_over(
    servers: Servers, bpffs: Path, tmp_path: Path
) -> None:
    blue = HandingServer(tmp_path, "blue")
    try:
        with subprocess.Popen(keeper("lb-agent.service", arguments=[tmp_path, bpffs, "active"]), **STARTED) as process:
            wait_for(lambda: accepts(tmp_path / "instances.sock"))
            assert blue.hand_over() == "ok blue"
            assert process.communicate()[0].splitlines()[0] == "{'blue': 'active'}"
    finally:
        blue.kill()
