# SPDX-License-Identifier: Apache-2.0
"""Each router configuration of the labs equals the output of the command that it names; `make routers` writes them."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import main

ROOT = Path(__file__).parents[2]
NAMES = ("bird.conf", "frr.conf", "bird-routed.conf", "bird-dual.conf", "frr-dual.conf", "bird-nat.conf")
FILES = [
    *(ROOT / "topology/routers" / name for name in NAMES),
    ROOT / "tests/bench/lab/bird.conf",
    ROOT / "tests/cluster/uplinks/bird.conf",
]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_router_file_is_what_its_command_prints(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by = re.search(r"^[#!] Made by: lbctl (.*)$", file.read_text(), re.MULTILINE)
    assert made_by, f"{file} names no command"
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(made_by[1])
    monkeypatch.setattr(sys, "argv", ["lbctl", *arguments])  # which the file names
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout == file.read_text(), "run `make routers`"
