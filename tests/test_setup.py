# SPDX-License-Identifier: Apache-2.0
"""setup.sh installs the versions of requirements/, with the hashes of their files; all are within pyproject.toml."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agent.file_acl import GROUP
from bgp.exabgp.config import USER

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN = PROJECT["project"]["dependencies"]
SETUP = PROJECT["dependency-groups"]["setup"]
TEST = PROJECT["project"]["optional-dependencies"]["test"]


def locked(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield package, version and hashes of each requirement of a lock file."""
    text = (ROOT / "requirements" / name).read_text()
    entries = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    for entry in entries:
        pinned, *hashes = entry.split()
        package, version = pinned.split("==")
        yield package, version, " ".join(hashes)


@pytest.mark.parametrize(
    ("name", "wanted"), [("agent.txt", RUN), ("setup.txt", SETUP), ("test.txt", RUN + SETUP + TEST)]
)
def test_lock_file_is_within_pyproject(name: str, wanted: list[str]) -> None:
    versions = {package: version for package, version, _ in locked(name)}
    for requirement in map(Requirement, wanted):
        package = canonicalize_name(requirement.name)
        assert package in versions, f"{package}: run make lock"
        assert requirement.specifier.contains(versions[package]), f"{package}: run make lock"


@pytest.mark.parametrize("name", ["agent.txt", "setup.txt", "test.txt"])
def test_every_package_has_the_hashes_of_its_files(name: str) -> None:
    for package, _, hashes in locked(name):
        assert re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} ?)+", hashes), package


def test_a_server_gets_the_versions_that_are_tested_and_no_more() -> None:
    agent, setup, test = (set(locked(name)) for name in ("agent.txt", "setup.txt", "test.txt"))
    assert agent | setup < test
    assert not agent & setup, "the package has what agent.txt names, and needs nothing that installs it"


def listing(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([ROOT / "setup.sh", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_a_server_gets_no_routers_and_no_tests() -> None:
    packages, user, group, python = listing("agent", "--dry-run").splitlines()
    assert group == f"group: {GROUP}"
    postinst = (ROOT / "package/deb/postinst").read_text()
    assert f"addgroup --system --quiet {GROUP}\n" in postinst, "the package makes the same group"
    assert packages == "packages: python3 python3-venv python3-bpfcc libatomic1 libpcap0.8 ca-certificates adduser"
    assert user == f"user: {USER}"
    assert python.startswith("Python packages: requirements/agent.txt requirements/setup.txt: ")
    named = {package for name in ("agent.txt", "setup.txt") for package, *_ in locked(name)}
    assert set(python.split()[4:]) == named
    assert {"exabgp", "pydantic", "numpy"} < set(python.split())
    assert not {"pytest", "mypy", "ruff", "scapy", "hypothesis"} & set(python.split())


def test_each_set_holds_the_one_before() -> None:
    agent, test, bench = (set(listing(*mode, "--dry-run").split()) for mode in (["agent"], [], ["bench"]))
    assert agent - {"requirements/agent.txt", "requirements/setup.txt:"} < test < bench
    assert {"bird2", "frr", "pytest"} < test
    assert "wrk" in bench - test


def test_unknown_set_is_refused() -> None:
    assert listing("agnt", code=1) == "anylb: agnt is neither agent, test, bench nor --dry-run\n"
