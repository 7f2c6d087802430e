# SPDX-License-Identifier: Apache-2.0
"""The units leave little to a process that was taken over; tests/cluster/test_units.py runs them by a real systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "agent" / "systemd"
MAX_EXPOSURE = 2.5

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: ./setup.sh")


@pytest.mark.parametrize("unit", ["lb-agent.service", "lb-bgp.service"])
def test_exposure_of_a_unit_is_low(unit: str) -> None:
    threshold = f"--threshold={MAX_EXPOSURE * 10:.0f}"
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, str(UNITS / unit)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_instances_have_the_system_call_that_copies_listeners() -> None:
    """The unit alone has none of the debuggers' calls, of which it is one."""
    argv = ["systemd-analyze", "syscall-filter", "--no-pager", "@system-service"]
    assert "pidfd_getfd" not in subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "\nSystemCallFilter=@system-service bpf\n" in (UNITS / "lb-agent.service").read_text()
    assert "\nSystemCallFilter=pidfd_getfd\n" in (UNITS / "instances.conf").read_text()
