# SPDX-License-Identifier: Apache-2.0
"""The Debian package: its example, its scripts, and that a build of the same tree gives the same bytes."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import file
from agent.errors import ConfigError
from bgp.exabgp.config import USER
from package.build import HERE, ROOT

SCRIPTS = ("postinst", "prerm", "postrm")


def test_example_is_refused_for_the_one_thing_to_choose() -> None:
    text = (HERE / "lb.yml").read_text()
    with pytest.raises(ConfigError, match=r"\Alb.yml:8:10: cluster: 0 is not in 1-4294967295\Z"):
        file.parse(text, "lb.yml")
    assert file.parse(text.replace("cluster: 0", "cluster: 4242"), "lb.yml").services


def test_dependencies_are_those_of_setup() -> None:
    """All but what makes a virtual environment, which the package contains."""
    depends = re.search(r"^Depends: (.*)$", (HERE / "deb/control.in").read_text(), re.MULTILINE)
    needed = re.search(r'^packages="(.*)"$', (ROOT / "setup.sh").read_text(), re.MULTILINE)
    assert depends
    assert needed
    assert set(depends[1].split(", ")) - {"@PYTHON@"} == set(needed[1].split()) - {"python3", "python3-venv"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_valid(name: str) -> None:
    subprocess.run(["sh", "-n", str(HERE / "deb" / name)], check=True)
    assert "set -e" in (HERE / "deb" / name).read_text()


def test_users_are_made_and_purged() -> None:
    scripts = {name: (HERE / "deb" / name).read_text() for name in SCRIPTS}
    for name in (USER, "anylb"):
        assert f"--quiet --no-create-home --home /nonexistent {USER}" in scripts["postinst"]
        assert re.search(rf"\b{name}\b", scripts["postrm"])


@pytest.mark.skipif("ANYLB_DEB" not in os.environ, reason="downloads Python packages: make proof")
def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, umask in (("a", "022"), ("b", "077")):
        temporary = tmp_path / name
        temporary.mkdir()
        command = f"umask {umask}; TMPDIR={temporary} exec {sys.executable} -m package.build --compression none"
        subprocess.run(["sh", "-c", f"{command} --output {temporary}"], check=True, cwd=ROOT)
        (package,) = temporary.glob("*.deb")
        digests.add(hashlib.sha256(package.read_bytes()).hexdigest())
    assert len(digests) == 1
