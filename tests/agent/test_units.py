# SPDX-License-Identifier: Apache-2.0
"""The units leave little to a process that was taken over; tests/cluster/test_units.py runs them by a real systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "agent" / "systemd"
MAX_EXPOSURE = 2.5


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: ./setup.sh")
@pytest.mark.parametrize("unit", ["lb-agent.service", "lb-bgp.service"])
def test_exposure_of_a_unit_is_low(unit: str) -> None:
    threshold = f"--threshold={MAX_EXPOSURE * 10:.0f}"
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, str(UNITS / unit)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
