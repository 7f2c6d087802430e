# SPDX-License-Identifier: Apache-2.0
"""Texts of others never steer a terminal nor forge a line of a log."""

import logging
import sys

from agent.log_format import LogFormatter


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
