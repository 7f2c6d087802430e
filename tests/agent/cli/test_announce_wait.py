# SPDX-License-Identifier: Apache-2.0
"""When `lbctl announce ... --wait` returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.announcing.export_status import ExportStatus, StatusEntry
from agent.cli.announce import unsettled

ROW = ExportStatus("192.0.2.10", "10.0.0.1", "announced", "yes", "up", "healthy")


def report(wanted: bool, *rows: ExportStatus, relay: str = "connected") -> dict[str, Any]:
    vips = {row.vip for row in rows}
    return {
        "relay": relay,
        "vips": [{"vip": vip, "wanted": wanted, "why": "why"} for vip in sorted(vips)],
        "peers": [StatusEntry(row, 0.0).to_json() for row in rows],
    }


@pytest.mark.parametrize(
    ("wanted", "report", "missing"),
    [
        (True, report(True, ROW), 0),
        (True, report(True, ROW, replace(ROW, peer="10.0.0.2", session="down", out="no")), 0),
        (True, report(True, replace(ROW, out="no")), 1),
        (True, report(True, replace(ROW, out="different")), 1),
        (True, report(True, ROW, replace(ROW, peer="10.0.0.2", out="no")), 1),
        (True, report(True, replace(ROW, session="down")), 1),  # no router receives it
        (True, report(False, replace(ROW, desired="withdrawn", out="no")), 2),  # unhealthy, or held down
        (False, report(False, replace(ROW, desired="withdrawn", out="no")), 0),
        (False, report(False, replace(ROW, desired="withdrawn")), 1),
        (False, report(False, replace(ROW, desired="withdrawn", session="down")), 0),
        (False, report(False, replace(ROW, desired="withdrawn", out="no"), relay="gone"), 1),
        (True, report(True, ROW, replace(ROW, vip="192.0.2.99", out="no")), 0),  # another VIP
    ],
)
def test_condition_that_wait_waits_for(wanted: bool, report: dict[str, Any], missing: int) -> None:
    assert len(unsettled(report, {"192.0.2.10"}, wanted)) == missing
