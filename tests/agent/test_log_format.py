# SPDX-License-Identifier: Apache-2.0
"""Texts of others never steer a terminal nor forge a line of a log."""

import logging
import sys

from agent.log_format import JournalFormatter, LogFormatter


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


def test_journald_gets_a_level_with_every_line() -> None:
    formatter = JournalFormatter()
    levels = {logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2, logging.DEBUG: 7}
    for level, number in levels.items():
        record = logging.LogRecord("anylb", level, "", 0, "why: %s", ("x\n<0>forged",), None)
        assert formatter.format(record) == f"<{number}>why: x\\n<0>forged"
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord("anylb", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert all(line.startswith("<3>") for line in formatter.format(record).splitlines())
