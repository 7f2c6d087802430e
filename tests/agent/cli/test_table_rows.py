# SPDX-License-Identifier: Apache-2.0
"""lbctl table show --rows, and diff with what it printed on another node: text, JSON, exit codes, wrong files."""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AgentError

Run = Callable[..., tuple[str, str]]
NODES = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]


def rows_of(node: str, name: str = "web", port: int = 443, **changed: Any) -> dict[str, Any]:
    rows = [[0, 1], [1, 2], [2, 0], [0, 2]]
    key = f"192.0.2.10:{port}/tcp"
    return {"node": node, "epoch": 5, "name": name, "key": key, "chain": 2, "nodes": NODES, "rows": rows} | changed


@pytest.fixture(autouse=True)
def agent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answer with the rows of web and dns, which a test may change."""
    services = {"web": rows_of("10.0.0.11"), "dns": rows_of("10.0.0.11", "dns", 53)}

    def request(_: Path, method: str, resource: str, service: str | None = None) -> dict[str, Any]:
        assert (method, resource) == ("GET", "/table/rows")
        if service is not None and service not in services:
            raise AgentError(f"{service} is not a service of this node with rows; it has web, dns")
        return services[service] if service else {"services": list(services)}

    monkeypatch.setattr("agent.cli.table_rows.request", request)
    monkeypatch.setenv("COLUMNS", "80")
    return services


def file_of(folder: Path, *services: dict[str, Any]) -> str:
    file = folder / "b2.rows"
    file.write_text("".join(json.dumps(one) + "\n" for one in services))
    return str(file)


def equal(folder: Path, changed: Iterable[dict[str, Any]] = ()) -> str:
    return file_of(folder, rows_of("10.0.0.12"), rows_of("10.0.0.12", "dns", 53), *changed)


def test_what_show_prints_is_what_diff_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, _ = run("table", "show", "--rows", "-o", "json")
    assert [json.loads(line)["name"] for line in printed.splitlines()] == ["web", "dns"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(printed.encode())))
    out, _ = run("table", "diff", "-")
    assert out == "web: all 4 rows are those of 10.0.0.11\ndns: all 4 rows are those of 10.0.0.11\n"


def test_rows_for_people(run: Run, agent: dict[str, Any]) -> None:
    agent["web"]["rows"] = [[0, 1], [], [-1, 2]]
    out, _ = run("table", "show", "--rows", "--service", "web")
    assert out.splitlines() == ["web 0: 10.0.0.11 → 10.0.0.12", "web 1: empty", "web 2: none → 10.0.0.13"]


def test_rows_that_differ_and_who_is_in_them(run: Run, tmp_path: Path) -> None:
    other = rows_of("10.0.0.12", rows=[[0, 1], [3, 2], [2, 1], [0, 2]], nodes=[*NODES, "10.0.0.14"])
    file = file_of(tmp_path, other, rows_of("10.0.0.12", "dns", 53))
    out, _ = run("table", "diff", file, code=1)
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    for part in (
        "web: 2 of 4 rows differ from those of 10.0.0.12, 1 of them in their owner",
        "in rows on 10.0.0.12 only: 10.0.0.14",
        "owner here owner on 10.0.0.12 rows 10.0.0.12 10.0.0.14 1",
        "1 10.0.0.12 → 10.0.0.13 10.0.0.14 → 10.0.0.13",
        "dns: all 4 rows are those of 10.0.0.12",
        "next: run on both nodes `lbctl table diff`",
    ):
        assert part in text
    found = json.loads(run("table", "diff", file, "-o", "json", code=1)[0])
    assert (found["there"], found["equal"]) == ("10.0.0.12", False)
    assert [(one["name"], one["equal"]) for one in found["services"]] == [("web", False), ("dns", True)]
    assert found["services"][0]["found"]["differing"] == 2
    assert json.loads(run("table", "diff", equal(tmp_path), "-o", "json")[0])["equal"]


def test_services_and_epochs_that_only_one_has(run: Run, tmp_path: Path) -> None:
    out, _ = run(
        "table", "diff", file_of(tmp_path, rows_of("10.0.0.12", "ntp", 123), rows_of("10.0.0.12", epoch=6)), code=1
    )
    assert out.splitlines()[:3] == [
        "web: 10.0.0.11 uses epoch 0x5, 10.0.0.12 0x6: all rows may differ",
        "dns: only 10.0.0.11 has rows of it, not 10.0.0.12",
        "ntp: only 10.0.0.12 has rows of it",
    ]


def test_rows_of_another_number_are_not_a_difference_of_epochs(run: Run, tmp_path: Path) -> None:
    out, _ = run("table", "diff", file_of(tmp_path, rows_of("10.0.0.12", rows=[[0]])), "--service", "web", code=1)
    assert "10.0.0.11 has 4 rows with chains of 2 and 10.0.0.12 has 1 rows with chains of 2" in " ".join(out.split())


def test_an_endless_file_is_an_error(run: Run) -> None:
    assert "has a line of more than" in " ".join(run("table", "diff", "/dev/zero", code=2)[1].split())


def test_one_service_by_its_key(run: Run, tmp_path: Path) -> None:
    """Another name for it is no difference, and other services do not count."""
    file = file_of(tmp_path, rows_of("10.0.0.12", "www"), rows_of("10.0.0.12", "ntp", 123))
    assert run("table", "diff", file, "--service", "web")[0] == "web: all 4 rows are those of 10.0.0.12\n"
    _, error = run("table", "diff", file, "--service", "x", code=2)
    assert "x is not a service of this node with rows; it has web, dns" in error


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty: give what `lbctl table show --rows -o json` prints"),
        ("lbctl: no agent answers\n", ":1: no rows of a service"),
        (json.dumps(rows_of("10.0.0.12"))[:-9], ":1: no rows of a service"),
        (json.dumps(rows_of("10.0.0.12")) + "\n{}\n", ":2: no rows of a service (lacks 'node')"),
        (
            f"{json.dumps(rows_of('10.0.0.12'))}\n{json.dumps(rows_of('10.0.0.13', port=53))}\n",
            ":2: has rows of a second",
        ),
        ((json.dumps(rows_of("10.0.0.12")) + "\n") * 2, ":2: has the rows of 192.0.2.10:443/tcp again"),
        ("[" * 100_000, ":1: no rows of a service"),
    ],
)
def test_a_file_without_rows_is_named_with_its_line(run: Run, tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "rows"
    file.write_text(text)
    _, error = run("table", "diff", str(file), code=2)
    assert problem in " ".join(error.split())
    assert "Traceback" not in error


def test_a_file_that_is_not_there(run: Run) -> None:
    assert "No such file" in run("table", "diff", "/nonexistent", code=2)[1]
