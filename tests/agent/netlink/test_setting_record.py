# SPDX-License-Identifier: Apache-2.0
"""What the agent changes of the kernel's settings is set back as it was, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.netlink.setting_record import change, keep_record, restore


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "settings.json"
    keep_record(path)
    yield path
    keep_record(None)


def setting(folder: Path, name: str, value: str) -> Path:
    path = folder / name
    path.write_text(f"{value}\n")
    return path


def test_value_before_the_first_change_comes_back(tmp_path: Path, record: Path) -> None:
    ignore, announce = setting(tmp_path, "arp_ignore", "0"), setting(tmp_path, "arp_announce", "1")
    change(ignore, "1")
    change(announce, "2")
    ignore.write_text("0\n")  # somebody else; the agent insists
    change(ignore, "1")
    assert (ignore.read_text(), announce.read_text()) == ("1", "2")
    assert len(restore(record)) == 2
    assert (ignore.read_text(), announce.read_text()) == ("0", "1")
    assert not record.exists()
    assert restore(record) == [], "once"


def test_what_somebody_else_set_since_then_stays(tmp_path: Path, record: Path) -> None:
    path = setting(tmp_path, "rp_filter", "1")
    change(path, "2")
    path.write_text("0\n")
    assert restore(record) == []
    assert path.read_text() == "0\n"


def test_setting_of_an_interface_that_is_gone_is_no_error(tmp_path: Path, record: Path) -> None:
    path = setting(tmp_path, "arp_ignore", "0")
    change(path, "1")
    path.unlink()
    assert restore(record) == []


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": [1, 2, 3]}'])
def test_damaged_record_is_an_empty_one(tmp_path: Path, record: Path, content: str) -> None:
    record.write_text(content)
    record.chmod(0o600)
    path = setting(tmp_path, "arp_ignore", "0")
    change(path, "1")
    assert restore(record) == [f"{path} = 0"]
