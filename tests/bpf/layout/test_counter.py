# SPDX-License-Identifier: Apache-2.0
"""The counters' numbers, and the table for operators."""

from pathlib import Path

from bpf.layout.counter import DESCRIPTIONS, Counter, render

DOCUMENT = Path(__file__).parents[3] / "docs/counters.md"


def test_counters_are_numbered_without_gaps() -> None:
    assert [counter.value for counter in Counter] == list(range(len(Counter)))


def test_every_counter_is_described() -> None:
    assert list(DESCRIPTIONS) == list(Counter)


def test_document_is_as_rendered() -> None:
    command = "python -m bpf.layout.counter > docs/counters.md"
    assert DOCUMENT.read_text() == render(), f"out of date: {command}"
    assert command in render()
    assert all(f"| `{counter.name.lower()}` |" in render() for counter in Counter)
