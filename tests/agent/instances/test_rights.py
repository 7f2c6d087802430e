# SPDX-License-Identifier: Apache-2.0
"""The capabilities of the agent's unit, with and without what instances.conf adds, for servers that have all."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.instances import Servers

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
    listed = [re.search(r"^CapabilityBoundingSet=(.*)$", (UNITS / name).read_text(), re.M) for name in files]
    names = " ".join(found[1] for found in listed if found).lower().replace("cap_", "+").split()
    return ",".join(["-all", *names])


@pytest.mark.parametrize(
    ("files", "state", "shown"),
    [
        (["lb-agent.service"], "refused", "the agent needs CAP_SYS_PTRACE: install agent/systemd/instances.conf"),
        (["lb-agent.service", "instances.conf"], "active", "{'blue': 'active', 'green': 'standby'}"),
    ],
)
def test_the_unit_may_take_listeners_with_its_drop_in(
    servers: Servers, bpffs: Path, tmp_path: Path, files: list[str], state: str, shown: str
) -> None:
    servers.start("blue")
    servers.start("green")
    limits = ["setpriv", "--no-new-privs", f"--bounding-set={capabilities(*files)}", "--inh-caps=-all"]
    done = subprocess.run(
        [*limits, sys.executable, "-c", KEEPER, str(tmp_path), str(bpffs), state],
        env={"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert shown in done.stdout
