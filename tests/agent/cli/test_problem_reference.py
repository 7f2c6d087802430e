# SPDX-License-Identifier: Apache-2.0
"""docs/problems.md has every problem line, and no other; each is made with the values that it names.

That no line is made without a kind is mypy's to see: only `Problem.line` returns a `ProblemLine`.
"""

import ast
import functools
import importlib
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.channel.problem import Cause
from agent.cli.problem_reference import kinds, page
from agent.problem import Problem

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/problems.md"
KINDS = [pytest.param(kind, id=f"{module}.{name}") for module, name, kind in kinds()]


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """All modules of the agent, by path. Not at import: each worker imports this file."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "agent").rglob("*.py"))}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path, tree in trees().items():
        for found in ast.walk(tree):
            if isinstance(found, ast.Call):
                yield path, found


@functools.cache
def uses() -> dict[int, list[set[str | None]]]:
    """The values that each kind is made with wherever it is used, by the kind's id."""
    found: dict[int, list[set[str | None]]] = {}
    for path, call in calls():
        made = call.func
        if isinstance(made, ast.Attribute) and made.attr in ("line", "parts") and isinstance(made.value, ast.Name):
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            kind = getattr(module, made.value.id, None)
            if isinstance(kind, Problem):
                found.setdefault(id(kind), []).append({word.arg for word in call.keywords})
    return found | {id(cause.value): [{"node", "detail"}] for cause in Cause}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_all_that_the_page_needs(kind: Problem) -> None:
    assert kind.meaning.endswith("."), "it has sentences: what has happened"
    assert kind.step or kind.text.endswith("}"), "without a step of its own the line ends with a value that has one"
    assert not kind.text.endswith((".", ":", ";"))
    assert not kind.step.endswith((".", ":", ";"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_made_with_the_values_that_it_names(kind: Problem) -> None:
    named = {name for _, name, _, _ in string.Formatter().parse(kind.text + kind.step) if name}
    assert uses().get(id(kind)), "no code makes this line"
    for values in uses()[id(kind)]:
        assert named <= values if kind in [cause.value for cause in Cause] else named == values


def test_all_causes_of_the_channel_occur() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in trees())
    assert [cause.name for cause in Cause if f"Cause.{cause.name}" not in source] == []


def test_every_kind_is_a_constant_that_the_page_finds() -> None:
    made = [path for path, call in calls() if isinstance(call.func, ast.Name) and call.func.id == "Problem"]
    assert len(made) == len(KINDS) > 60


def test_lines_have_one_maker() -> None:
    makers = {path.name for path, call in calls() if ast.unparse(call.func).endswith("ProblemLine")}
    casts = [path for path, call in calls() if ast.unparse(call.func) == "cast" and "ProblemLine" in ast.unparse(call)]
    assert (makers, casts) == ({"problem.py"}, [])


def test_the_page_is_up_to_date() -> None:
    command = "python -m agent.cli.problem_reference > docs/problems.md"
    assert DOCUMENT.read_text(encoding="utf-8") == page(), f"run: {command}"
