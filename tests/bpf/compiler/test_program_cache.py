# SPDX-License-Identifier: Apache-2.0
"""The cache of programs: its capacity, and other kernels. What it refuses to return is in test_build.py."""

import os
from pathlib import Path

import pytest

from bpf.compiler.program import Program
from bpf.compiler.program_cache import ProgramCache

EXIT = bytes.fromhex("9500000000000000")


def test_oldest_programs_are_removed(tmp_path: Path) -> None:
    cache = ProgramCache(tmp_path)
    for number in range(40):
        cache.put(f"lb_{number}", Program("XDP", f"lb_{number}", EXIT, {}))
        os.utime(tmp_path / f"lb_{number}.json", (number, number))
    assert cache.get("lb_39") == Program("XDP", "lb_39", EXIT, {})
    assert len(list(tmp_path.iterdir())) == 16


def test_programs_outlive_an_upgrade_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that boots into it is off the network until its agent has started: it need not compile."""
    program = Program("XDP", "lb_1", EXIT, {})
    ProgramCache(tmp_path).put("lb_1", program)
    before = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((before[0], before[1], "6.99.0", before[3], before[4])))
    assert ProgramCache(tmp_path).get("lb_1") == program
