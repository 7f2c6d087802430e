# SPDX-License-Identifier: Apache-2.0
"""Real maps for the tests of this folder, in a folder of pins of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf.maps.maps import Maps


@pytest.fixture
def folder(bpffs: Path, tmp_path: Path) -> Iterator[Path]:
    path = bpffs / tmp_path.name
    path.mkdir()
    yield path
    for pin in path.iterdir():
        pin.unlink()
    path.rmdir()


@pytest.fixture
def maps(folder: Path) -> Iterator[Maps]:
    maps = Maps.open(folder, 65_536)
    yield maps
    maps.close()
