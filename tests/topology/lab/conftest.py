# SPDX-License-Identifier: Apache-2.0
"""A name and a file for the lab of a test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from topology.lab.lab import Lab


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A lab name of this test's own; a lab of this name is removed afterwards."""
    lab_name = f"t{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"
    yield lab_name
    Lab.remove(lab_name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "lab.clab.yml"
        path.write_text(text)
        return path

    return write_file
