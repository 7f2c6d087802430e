# SPDX-License-Identifier: Apache-2.0
"""Alerts: what `lbctl announce check` reports of export statuses, the relay and its errors."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from agent.announcing.alert import CRITICAL, WARNING, Alert, alerts
from agent.announcing.export_status import ExportStatus
from agent.model import Announcement, Method

FOUR = IPv4Address("192.0.2.10")
HEALTHY, DOWN = Announcement(True, "healthy"), Announcement(False, "withdrawn by the operator")
SICK = Announcement(False, "unhealthy: web", fault=True)
ROW = ExportStatus("192.0.2.10", "10.0.0.1", "announced", "yes", "up", "healthy")


@pytest.mark.parametrize(
    ("announcement", "rows", "expected"),
    [
        (HEALTHY, [ROW], []),
        # One router is down: no problem while another is up.
        (HEALTHY, [ROW, replace(ROW, peer="10.0.0.2", session="down", out="no")], []),
        (DOWN, [replace(ROW, desired="withdrawn", out="no")], []),
        (
            HEALTHY,
            [ROW, replace(ROW, peer="10.0.0.2", out="no")],
            [
                Alert(
                    WARNING, "192.0.2.10 at 10.0.0.2: to be announced (healthy), but not in the adj-rib-out"
                )
            ],
        ),
        (
            HEALTHY,
            [replace(ROW, out="no")],
            [Alert(CRITICAL, "192.0.2.10 at 10.0.0.1: to be announced (healthy), but not in the adj-rib-out")],
        ),
        (
            HEALTHY,
            [replace(ROW, out="not negotiated")],
            [
                Alert(
                    CRITICAL,
                    "192.0.2.10 at 10.0.0.1: to be announced (healthy), but the router did not negotiate its "
                    "address family for the session: enable it there",
                )
            ],
        ),
        (
            replace(HEALTHY, method=Method.MED),
            [replace(ROW, desired="med", out="different")],
            [
                Alert(
                    WARNING,
                    "192.0.2.10 at 10.0.0.1: to be announced with med (healthy), but the adj-rib-out holds a route "
                    "with other attributes",
                )
            ],
        ),
        (
            DOWN,
            [replace(ROW, desired="withdrawn", why="x")],
            [Alert(WARNING, "192.0.2.10 at 10.0.0.1: to be withdrawn (x), but still in the adj-rib-out")],
        ),
        (
            SICK,
            [replace(ROW, desired="withdrawn", out="no")],
            [Alert(WARNING, "192.0.2.10 is not announced: unhealthy: web")],
        ),
        (
            HEALTHY,
            [replace(ROW, session="down")],
            [Alert(CRITICAL, "no BGP session is up (10.0.0.1); see `lbctl status` and the log of lb-bgp")],
        ),
    ],
)  # fmt: skip
def test_alerts(announcement: Announcement, rows: list[ExportStatus], expected: list[Alert]) -> None:
    assert alerts({FOUR: announcement}, rows, None, None) == expected


def test_alerts_of_relay_and_start() -> None:
    assert [alert.severity for alert in alerts({FOUR: HEALTHY}, [ROW], "relay: gone", None)] == [CRITICAL]
    assert [alert.severity for alert in alerts({}, [], None, None)] == [WARNING]
    assert alerts({FOUR: HEALTHY}, [ROW], None, "ExaBGP refused") == [Alert(WARNING, "ExaBGP refused")]
    worst = alerts({FOUR: HEALTHY}, [replace(ROW, out="no")], None, "ExaBGP refused")
    assert [alert.severity for alert in worst] == [CRITICAL, WARNING], "critical first"


def test_problem_of_the_path_is_a_warning_though_all_is_announced() -> None:
    text = "there is no route to clients"
    assert alerts({FOUR: HEALTHY}, [ROW], None, None, (), (text,)) == [Alert(WARNING, text)]


def test_alert_when_no_session_is_up_names_the_reasons() -> None:
    down = ["10.0.0.1 down for 7 s: connection refused (next try within 1 s)"]
    (alert,) = alerts({FOUR: HEALTHY}, [replace(ROW, session="down")], None, None, down)
    assert alert.severity == CRITICAL
    assert down[0] in alert.text


def test_alert_when_no_peer_carries_the_family() -> None:
    (alert,) = alerts({IPv6Address("fd99::1"): Announcement(True, "")}, [], None, None)
    assert alert.severity == CRITICAL
    assert "no BGP peer carries the address family" in alert.text
