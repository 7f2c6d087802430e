# SPDX-License-Identifier: Apache-2.0
"""What to report of lb.yml while it is not what runs: it differs, has a fault, or was refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.change.difference import Change
from agent.problem import Problem, ProblemLine

REFUSED = Problem(
    "{file} was refused, and the previous configuration runs: {why}",
    "",
    "A reload or `lbctl config apply` failed, and changed nothing. The reason names line, column and key. A restart "
    "of the agent would fail with the same reason.",
)
FAULTY = Problem(
    "{file} would be refused, and the previous configuration runs: {why}",
    "",
    "The file has a fault, and nothing has loaded it yet. Correct it before the agent is started again.",
)
DIFFERS = Problem(
    "{file} differs from what runs by {changes}",
    "see `lbctl config diff`, then `lbctl config apply`",
    "Someone edited the file, or one that it names, without a reload; a restart would load it.",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last change that was refused: the text, None if the file could not be read, and why.

    `in_file`: because of a fault in the file or in one that it names, and not in what this node has.
    """

    text: str | None
    why: str
    in_file: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What lb.yml contains now: `text` is None if it cannot be read, `fault` why it would be refused, if it would."""

    text: str | None
    fault: str | None = None
    changes: Sequence[Change] = ()


def line(name: str, found: Found, refusal: Refusal | None) -> ProblemLine | None:
    """Return the problem line of a file called `name`; None if it contains what runs."""
    if refusal is not None and not is_mended(refusal, found):
        return REFUSED.line(file=name, why=_first(found.fault or refusal.why))
    if found.fault is not None:
        return FAULTY.line(file=name, why=_first(found.fault))
    if found.changes:
        count = f"{len(found.changes)} change{'' if len(found.changes) == 1 else 's'}"
        return DIFFERS.line(file=name, changes=count)
    return None


def is_mended(refusal: Refusal, found: Found) -> bool:
    """Return whether a refusal is over: for a fault in a file with the fault, for others with the refused text."""
    return refusal.text != found.text or (refusal.in_file and found.fault is None)


def _first(text: str) -> str:
    lines = text.splitlines()
    more = f" (and {len(lines) - 1} more: `lbctl config check`)" if len(lines) > 1 else ""
    return lines[0] + more
