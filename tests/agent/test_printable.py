# SPDX-License-Identifier: Apache-2.0
"""Texts of others never steer a terminal nor forge a line of a log."""

import logging
import sys

import pytest

from agent.printable import LogFormatter, printable


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
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_log_record_is_one_line_and_a_traceback_keeps_its_lines() -> None:
    formatter = LogFormatter("%(name)s: %(message)s")
    record = logging.LogRecord("anylb", logging.ERROR, "", 0, "why: %s", ("x\nanylb: forged\x1b[2J",), None)
    assert formatter.format(record) == "anylb: why: x\\nanylb: forged\\x1b[2J"
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        record = logging.LogRecord("anylb", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    first, *_, last = formatter.format(record).splitlines()
    assert (first, last) == ("anylb: failed", "ValueError: \\x1b[2J")
