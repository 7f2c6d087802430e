# SPDX-License-Identifier: Apache-2.0
"""A lab's name is a folder's below the records': one that leads elsewhere is refused before anything is touched."""

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
