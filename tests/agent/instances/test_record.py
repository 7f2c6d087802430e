# SPDX-License-Identifier: Apache-2.0
"""What an agent leaves for the next one, and damaged files."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.instances import keeper
from agent.instances.choice import Active, OperatorChoice
from agent.instances.match import Added, ProcessId
from agent.instances.record import Record

RECORD = Record(
    OperatorChoice("green", frozenset({"red"}), {"blue": 7}),
    (Added("by-hand", ProcessId(7, 1 << 40)),),
    {"nginx-1": ProcessId(8, 5)},
    Active("green", frozenset({(1 << 63) + 1})),
    8080,
    {(1 << 63) + 1: ProcessId(7, 1)},
)


@pytest.mark.parametrize("record", [RECORD, Record()])
def test_it_is_read_as_it_was_written(record: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "spoilt",
    [
        {"added": [["x", 1]]},
        {"weights": {"blue": -1}},
        {"active": [1]},
        {"drained": 7},
        {"numbered": {"nginx-1": [1, 1e400]}},
        {"port": 70_000},
        {"handed": [[1, 2]]},
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, spoilt: dict[str, Any]) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"tcp/80": {**RECORD.to_json(), **spoilt}}))
    path.chmod(0o600)
    assert keeper._load(path) == {}
    path.write_text("{")
    assert keeper._load(path) == {}
    assert keeper._load(tmp_path / "none") == {}
    path.write_text(json.dumps({"tcp/80": RECORD.to_json()}))
    assert keeper._load(path) == {"tcp/80": RECORD}
