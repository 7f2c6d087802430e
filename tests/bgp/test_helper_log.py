# SPDX-License-Identifier: Apache-2.0
"""The log lines of ExaBGP's helpers: for a terminal, and for journald."""

import os

import pytest

from bgp.helper_log import WARNING, log


def test_line_begins_with_its_level_for_journald_only(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # somebody else's
    log("relay", "neighbor 10.0.0.1: session down\x1b[31m", WARNING)
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log("relay", "neighbor 10.0.0.1: session down", WARNING)
    log("relay", "neighbor 10.0.0.1: session up")
    assert capfd.readouterr().err.splitlines() == [
        "relay           neighbor 10.0.0.1: session down\\x1b[31m",
        "<4>relay           neighbor 10.0.0.1: session down",
        "<6>relay           neighbor 10.0.0.1: session up",
    ]
