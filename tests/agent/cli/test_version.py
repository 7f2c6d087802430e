# SPDX-License-Identifier: Apache-2.0
"""lbctl version: the release and what it runs on, in a clone and without one."""

import json
import platform
import subprocess
from pathlib import Path

from click.testing import CliRunner

from agent.cli.main import main
from agent.cli.version import build


def test_version_names_release_build_and_kernel() -> None:
    text = CliRunner().invoke(main, ["version"]).output
    result = json.loads(CliRunner().invoke(main, ["version", "-o", "json"]).output)
    assert text.startswith(f"anylb {result['version']} ({result['build']}), table versions 1, 2")
    assert f"Linux {platform.release()}, Python {platform.python_version()}" in text
    assert result["parts"]["exabgp"].startswith("5.")


def test_a_build_is_a_commit_or_a_digest_of_the_sources(tmp_path: Path) -> None:
    source = tmp_path / "agent/a.py"
    source.parent.mkdir()
    source.write_text("a = 1\n")
    first = build(tmp_path)
    assert first.startswith("sources ")
    source.write_text("a = 2\n")
    assert build(tmp_path) != first
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "first"], check=True)
    commit = build(tmp_path)
    assert commit.startswith("commit ")
    source.write_text("a = 3\n")
    assert build(tmp_path) == f"{commit}, modified"
