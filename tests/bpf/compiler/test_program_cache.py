# SPDX-License-Identifier: Apache-2.0
"""The cache of programs: its capacity. What it refuses to return is in test_build.py."""

import os
from pathlib import Path

from bpf.compiler.program import Program
from bpf.compiler.program_cache import ProgramCache

EXIT = bytes.fromhex("9500000000000000")


def test_oldest_programs_are_removed(tmp_path: Path) -> None:
    cache = ProgramCache(tmp_path)
    for number in range(40):
        cache.put(f"lb_{number}", Program("XDP", f"lb_{number}", EXIT, {}))
        os.utime(next(tmp_path.glob(f"lb_{number}_*")), (number, number))
    assert cache.get("lb_39") == Program("XDP", "lb_39", EXIT, {})
    assert len(list(tmp_path.iterdir())) == 16
