# SPDX-License-Identifier: Apache-2.0
"""docs/problems.md has every problem line, and no other; each is made with the values that it names.

That no line is made without a kind is mypy's to see: only `Problem.line` returns a `ProblemLine`.
"""

import ast
import functools
import importlib
import string
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.channel.problem import Cause
from agent.cli.problem_reference import kinds, page
from agent.problem import Problem

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/problems.md"
KINDS = [pytest.param(kind, id=f"{module}.{name}") for module, name, kind in kinds()]


class Call(NamedTuple):
    """A call in a module of the agent: what is called, as "name.name" ("?" for what is no name); the names of values;
    the first argument, if it is a cast."""

    path: Path
    called: str
    names: set[str | None]
    cast_to: str


def modules() -> list[Path]:
    return sorted((ROOT / "agent").rglob("*.py"))


@functools.cache
def calls() -> list[Call]:
    """All calls in the agent. Not at import: each worker imports this file. Trees are not kept: every full garbage
    collection of the worker would visit them."""
    return [
        call_of(path, node)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def call_of(path: Path, call: ast.Call) -> Call:
    called = dotted(call.func)
    cast_to = ast.unparse(call.args[0]) if called.endswith("cast") and call.args else ""
    return Call(path, called, {one.arg for one in call.keywords}, cast_to)


def dotted(made: ast.expr) -> str:
    if isinstance(made, ast.Attribute):
        return f"{dotted(made.value)}.{made.attr}"
    return made.id if isinstance(made, ast.Name) else "?"


@functools.cache
def uses() -> dict[int, list[set[str | None]]]:
    """The values that each kind is made with wherever it is used, by the kind's id."""
    found: dict[int, list[set[str | None]]] = {}
    for call in calls():
        name, _, method = call.called.partition(".")
        if method in ("line", "parts"):
            module = importlib.import_module(".".join(call.path.relative_to(ROOT).with_suffix("").parts))
            kind = getattr(module, name, None)
            if isinstance(kind, Problem):
                found.setdefault(id(kind), []).append(call.names)
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
    source = "".join(path.read_text(encoding="utf-8") for path in modules())
    assert [cause.name for cause in Cause if f"Cause.{cause.name}" not in source] == []


def test_every_kind_is_a_constant_that_the_page_finds() -> None:
    made = [call.path for call in calls() if call.called == "Problem"]
    assert len(made) == len(KINDS) > 60


def test_lines_have_one_maker() -> None:
    makers = {call.path.name for call in calls() if call.called.endswith("ProblemLine")}
    casts = [call.path for call in calls() if "ProblemLine" in call.cast_to]
    assert (makers, casts) == ({"problem.py"}, [])


def test_the_page_is_up_to_date() -> None:
    command = "python -m agent.cli.problem_reference > docs/problems.md"
    assert DOCUMENT.read_text(encoding="utf-8") == page(), f"run: {command}"
