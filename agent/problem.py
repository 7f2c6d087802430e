# SPDX-License-Identifier: Apache-2.0
"""The form of a problem line, which `lbctl status` and `lbctl check` show: what is wrong, and the next step. Pure.

A kind is a constant beside the code that finds the problem. docs/problems.md is made from all of them
(agent/cli/problem_reference.py). Only `Problem.line` makes a `ProblemLine`: mypy refuses a line that is not of a kind,
and so not on that page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

ProblemLine = NewType("ProblemLine", str)


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem. `{name}` in `text` and `step` is a value of the case."""

    text: str
    """What is wrong, and where."""
    step: str
    """What to do next; "" if a value of `text` ends with that."""
    meaning: str
    """For the page: what has happened, what becomes of connections, what else helps."""

    def parts(self, **values: object) -> tuple[str, str]:
        """Return what is wrong, and the next step, with these values."""
        return self.text.format(**values), self.step.format(**values)

    def line(self, **values: object) -> ProblemLine:
        """Return the line with these values."""
        return ProblemLine(": ".join(filter(None, self.parts(**values))))
