# SPDX-License-Identifier: Apache-2.0
"""The kernel's limits on the number of neighbors."""

from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.netlink.neighbor_limit import raise_neighbor_limits

DEFAULTS = (128, 512, 1024)


def folder(root: Path) -> Path:
    return root / "net/ipv4/neigh/default"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder(tmp_path).mkdir(parents=True)
    for i, limit in enumerate(DEFAULTS, 1):
        (folder(tmp_path) / f"gc_thresh{i}").write_text(f"{limit}\n")
    return tmp_path


def limits(root: Path) -> tuple[int, ...]:
    return tuple(int((folder(root) / f"gc_thresh{i}").read_text()) for i in (1, 2, 3))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, DEFAULTS), (128, DEFAULTS), (129, (256, 1024, 2048)), (1000, (1024, 4096, 8192)), (1024, (1024, 4096, 8192))],
)
def test_limits(root: Path, count: int, expected: tuple[int, ...]) -> None:
    changed = raise_neighbor_limits(4, count, root)
    assert limits(root) == expected
    assert len(changed) == (3 if expected != DEFAULTS else 0)
    assert raise_neighbor_limits(4, count, root) == [], "once"


def test_no_limit_is_lowered(root: Path) -> None:
    (folder(root) / "gc_thresh3").write_text("100000")
    changed = raise_neighbor_limits(4, 1000, root)
    assert changed == ["net.ipv4.neigh.default.gc_thresh2 = 4096", "net.ipv4.neigh.default.gc_thresh1 = 1024"]
    assert limits(root) == (1024, 4096, 100000)


def test_other_namespaces_have_no_such_settings(tmp_path: Path) -> None:
    assert raise_neighbor_limits(6, 1000, tmp_path) == []


def test_what_cannot_be_set_is_an_error(root: Path) -> None:
    (folder(root) / "gc_thresh3").unlink()
    (folder(root) / "gc_thresh3").mkdir()
    with pytest.raises(AgentError, match=r"gc_thresh3: Is a directory; set it to 8192, for 1000 neighbors"):
        raise_neighbor_limits(4, 1000, root)
