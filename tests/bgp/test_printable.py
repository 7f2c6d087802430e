# SPDX-License-Identifier: Apache-2.0
"""Text of others: nothing that a terminal obeys, and no more than so much of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.printable import escaped, printable


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("Überlast, router 1", 20, "Überlast, router 1"),
        ("a\x1b[31mb\r\nc", 20, r"a\x1b[31mb\r\nc"),
        ("\u202eabc", 20, r"\u202eabc"),
        ("\ud800", 20, r"\ud800"),
        ("x" * 9, 5, "xxxx…"),
    ],
)
def test_examples(text: str, limit: int, shown: str):
    assert printable(text, limit) == shown


@given(st.text(), st.integers(1, 50))
def test_always_printable_and_bounded(text: str, limit: int):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("eth1: ü € 日本", "eth1: ü € 日本"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\r", "a\\nb\\r"),
        ("\x9b31m \x7f", "\\x9b31m \\x7f"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown
