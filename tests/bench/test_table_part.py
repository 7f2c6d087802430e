# SPDX-License-Identifier: Apache-2.0
"""The part of `make bench` that uses the agent's own functions for tables runs, with few members."""

import json
import subprocess
import sys
from pathlib import Path

RUN = "import json; from bench import table; table.MEMBERS = (16,); print(json.dumps(table.measure(1)))"


def test_each_case_is_measured() -> None:
    argv = [sys.executable, "-c", RUN]
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tests)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["case"] for row in rows} >= {"one drained, all that the agent does", "swap", "maglev, from nothing"}
    assert all(row["ms_min"] > 0 for row in rows)
