# SPDX-License-Identifier: Apache-2.0
"""The interface of the tests of the data path, and the folder of its pins.

this namespace:  wire ──── node     (a veth; the program sits on `node`, packets are sent into `wire`)
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def veth(netns: None, runner: Callable[..., None]) -> None:
    runner("ip", "link", "add", "node", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "wire")
    for end in ("node", "wire"):
        Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")  # no packets but ours
        runner("ip", "link", "set", end, "up")


@pytest.fixture
def pins(bpffs: Path, tmp_path: Path) -> Iterator[Path]:
    folder = bpffs / tmp_path.name
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
