# SPDX-License-Identifier: Apache-2.0
"""docs/problems.md, made from the kinds of problems in the code: run as a program, it prints the page."""

from __future__ import annotations

import importlib
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from enum import EnumType
from typing import Final

import agent
from agent.problem import Problem

SECTIONS: Final = {
    "agent.daemon": "The configuration and the agent",
    "agent.change": "lb.yml",
    "agent.membership": "Nodes and routers",
    "agent.channel": "What nodes send each other",
    "agent.liveness": "Whether nodes answer",
    "agent.node": "Tables, claims and backends",
    "agent.forwarding": "Paths of packets",
    "agent.announcing": "VIPs",
    "agent.health": "Services",
    "agent.connections": "Connections",
    "agent.instances": "Instances",
    "agent.nat": "NAT",
    "agent.sessions": "Sessions of NAT",
    "agent.control": "Monitoring",
}
"""The title for each folder that has kinds, in the order of the page."""
IN_LINE: Final = "(the line ends with it)"
_COMMAND: Final = "python -m agent.cli.problem_reference > docs/problems.md"
_INTRODUCTION: Final = (
    "Every problem line of `lbctl status`, with its next step: the line is *what is wrong*`:` *next step*. Words in "
    "italics are the names and numbers of your case. To find a line, search this page for words of it that are no name "
    "and no number. `lbctl check` and the log show the same lines. What `check` finds besides (sessions, members, full "
    "tables) and what `lbctl doctor` finds on the machine has its next step in the line itself."
)


def kinds() -> Iterator[tuple[str, str, Problem]]:
    """Yield each kind with its module and its name, in the order of the modules, and of each module's text."""
    seen: set[int] = set()
    for module in pkgutil.walk_packages(agent.__path__, "agent."):
        for name, value in vars(importlib.import_module(module.name)).items():
            named = value.__members__.items() if isinstance(value, EnumType) else [(name, value)]
            for inner, one in named:
                kind = getattr(one, "value", one)
                if isinstance(kind, Problem) and id(kind) not in seen:
                    seen.add(id(kind))
                    yield module.name, inner, kind


def page() -> str:
    """Return docs/problems.md."""
    by_folder: dict[str, list[Problem]] = {folder: [] for folder in SECTIONS}
    for module, _, kind in kinds():
        by_folder[".".join(module.split(".")[:2])].append(kind)
    lines = [f"<!-- Made by: {_COMMAND} -->", "# Problem lines", "", *textwrap.wrap(_INTRODUCTION, 120)]
    for folder, title in SECTIONS.items():
        lines += ["", f"## {title}", "", "| what is wrong | next step | meaning |", "|---|---|---|"]
        lines += [
            f"| {_shown(one.text)} | {_shown(one.step or IN_LINE)} | {one.meaning} |" for one in by_folder[folder]
        ]
    return "\n".join(lines) + "\n"


def _shown(template: str) -> str:
    """Return a template with its values in italics: within code, in capitals, where Markdown has no italics."""
    parts = template.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"\{(\w+)[^}]*\}", r"*\1*", part) for part in parts[::2]]
    parts[1::2] = [re.sub(r"\{(\w+)[^}]*\}", lambda found: found[1].upper(), part) for part in parts[1::2]]
    return "`".join(parts)


if __name__ == "__main__":
    print(page(), end="")
