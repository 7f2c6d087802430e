# SPDX-License-Identifier: Apache-2.0
"""What no linter checks in this tree. `make lint` (lint.py) runs the linters."""

import graphlib
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sources(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [ROOT / name for name in listed if (ROOT / name).exists()]


C_SOURCES = sources("*.c", "*.h")


def test_c_lines_are_short() -> None:
    """clang-format leaves comments alone: their lines are measured here, with tabs of 8."""
    assert len(C_SOURCES) > 5
    for path in C_SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line.expandtabs(8)) <= 120, f"{path}:{number} is longer than 120 columns"


def test_c_headers_include_in_no_circle() -> None:
    """source.py joins each header once, at its first #include: in a circle one would come before what it needs."""
    includes = {path.name: set(re.findall(r'^#include "(.+)"$', path.read_text(), re.M)) for path in C_SOURCES}
    assert includes["lb.c"] > {"lb.h", "maps.h"}
    list(graphlib.TopologicalSorter(includes).static_order())


def test_every_source_names_its_license_and_what_it_owns() -> None:
    for path in sources("*.py"):
        first, second = path.read_text(encoding="utf-8").split("\n", 2)[:2]
        assert first == "# SPDX-License-Identifier: Apache-2.0", path
        assert second.startswith('"""'), path
    kernel_side = sources("bpf/src/**")
    assert len(kernel_side) > 5
    for path in kernel_side:
        assert "SPDX-License-Identifier: GPL-2.0" in path.read_text(encoding="utf-8").split("\n", 1)[0], path


def test_make_alone_lists_all_targets_and_runs_none() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^([a-z-]+):", text, re.M)[0] == "help", "what make does without a target"
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not of `make test`
    listed = subprocess.run(["make", "help"], cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout
    phony = text.partition(".PHONY: ")[2].partition("\n")[0].split()
    assert [line.split()[0] for line in listed.splitlines()] == phony


def test_no_init_below_tests() -> None:
    """One of a package's name would shadow it. A folder whose files share a lab is a package of its own name."""
    assert {path.parent.name for path in (ROOT / "tests").rglob("__init__.py")} == {
        "membership_cluster",
        "nat_cluster",
        "node_agent",
        "operator_cluster",
    }


def test_no_machine_paths() -> None:
    forbidden = re.compile(r"/(work|root|home)/\w+|\.\./\.library")
    for path in sources("*.py", "*.c", "*.h", "*.md", "*.yml", "*.toml", "*.sh", "Makefile"):
        if path != Path(__file__):
            assert not forbidden.search(path.read_text(encoding="utf-8")), path
