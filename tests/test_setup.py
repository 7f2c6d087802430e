# SPDX-License-Identifier: Apache-2.0
"""setup.sh installs the versions of requirements/, with the hashes of their files; all are within pyproject.toml."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


@pytest.mark.parametrize(("name", "wanted"), [("test.txt", RUN + SETUP + TEST)])
def test_lock_file_is_within_pyproject(name: str, wanted: list[str]) -> None:
    versions = {package: version for package, version, _ in locked(name)}
    for requirement in map(Requirement, wanted):
        package = canonicalize_name(requirement.name)
        assert package in versions, f"{package}: run make lock"
        assert requirement.specifier.contains(versions[package]), f"{package}: run make lock"


@pytest.mark.parametrize("name", ["test.txt"])
def test_every_package_has_the_hashes_of_its_files(name: str) -> None:
    for package, _, hashes in locked(name):
        assert re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} ?)+", hashes), package
