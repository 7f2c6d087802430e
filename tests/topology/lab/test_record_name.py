# SPDX-License-Identifier: Apache-2.0
"""A lab's record: a name that leads elsewhere is refused, and nothing touched; what cannot be written is named."""

import errno
from pathlib import Path

import pytest

from topology.errors import LabError
from topology.lab import record
from topology.lab.lab import Lab
from topology.lab.process import ProcessRef


@pytest.mark.parametrize("odd", ["absolute", "../other", "", ".", "..", "a/b", "\x1b[31m", "-a"])
def test_a_name_that_leads_elsewhere_is_refused_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setattr(record, "RECORDS", tmp_path / "labs")
    name = str(tmp_path / "other") if odd == "absolute" else odd
    for kept in (tmp_path / "labs/up/lab.json", tmp_path / "other/file"):
        kept.parent.mkdir(parents=True)
        kept.write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabError, match="is no name of a lab; it has letters, digits"):
        record.remove(name)
    with pytest.raises(LabError, match="is no name of a lab"):
        record.LabRecord.load(name)
    with pytest.raises(LabError, match="is no name of a lab"):
        record.LabRecord(name, "", "up", False, ProcessRef(1, 1)).save()
    assert sorted(tmp_path.rglob("*")) == before


def test_who_is_not_root_learns_that_a_lab_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    for ask in (Lab.find, Lab.remove):
        with pytest.raises(LabError, match="a lab needs root"):
            ask("up")


def test_a_record_that_cannot_be_written_is_an_error_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(record, "RECORDS", tmp_path / "file/labs")
    with pytest.raises(LabError, match=f"{tmp_path}/file/labs/a: Not a directory; labs are recorded there"):
        record.LabRecord("a", "", "up", False, ProcessRef(1, 1)).save()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(record, "RECORDS", tmp_path)
    with pytest.raises(LabError, match=f"{tmp_path}/a/lab.json.new: No space left; labs are recorded there"):
        record.LabRecord("a", "", "up", False, ProcessRef(1, 1)).save()
