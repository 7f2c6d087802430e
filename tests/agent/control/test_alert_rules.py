# SPDX-License-Identifier: Apache-2.0
"""docs/monitoring/anylb.rules.yml, evaluated by promtool: each alert fires for the series that it is for, and not for
nearly the same ones; each names what is wrong and the next step, and uses metrics that there are."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.control.metric_list import METRICS

RULES = Path(__file__).parents[3] / "docs/monitoring/anylb.rules.yml"
ALERTS = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}  # fmt: skip
SAMPLES = 60
"""30 s apart: every alert is due after half of them."""

Case = tuple[list[tuple[str, str, str]], str]
CASES: dict[str, Case] = {
    "AnylbNodeUnreachable": ([('up{job="anylb",instance="b1"}', "0", "1")], 'instance="b1",job="anylb"'),
    "AnylbCritical": ([('anylb_health{instance="b1"}', "2", "1")], 'instance="b1"'),
    "AnylbWarning": ([('anylb_health{instance="b1"}', "1", "0")], 'instance="b1"'),
    "AnylbServiceDown": ([('anylb_service_members_taking{instance="b1",service="web"}', "0", "1")], 'service="web"'),
    "AnylbServiceHalf": (
        [
            ('anylb_service_members_taking{instance="b1",service="web"}', "1", "2"),
            ('anylb_service_members{instance="b1",service="web"}', "4", "4"),
        ],
        'service="web"',
    ),
    "AnylbNotAttached": (
        [
            ('anylb_xdp_attached{instance="b1"}', "0", "0"),
            ('anylb_info{instance="b1",xdp_mode="native"}', "1", "_"),
            ('anylb_info{instance="b1",xdp_mode="off"}', "_", "1"),
        ],
        'instance="b1"',
    ),
    "AnylbDifferentTable": (
        [('anylb_member_same_table{instance="b1",member="b2"}', "0", "1")],
        'instance="b1",member="b2"',
    ),
    "AnylbNodesDiffer": ([('anylb_nodes_differing{instance="b1"}', "1", "0")], 'instance="b1"'),
    "AnylbMemberSilent": ([('anylb_member_silent_seconds{instance="b1",member="b2"}', "31", "30")], 'member="b2"'),
    "AnylbAgentDown": ([('anylb_member_agent_up{instance="b1",member="b2"}', "0", "1")], 'member="b2"'),
    "AnylbEchoLoss": (
        [
            ('anylb_echo_unanswered_total{instance="b1",member="b2",path="gue"}', "0+6", "0+4"),
            ('anylb_echo_questions_total{instance="b1",member="b2",path="gue"}', "0+100", "0+100"),
        ],
        'member="b2",path="gue"',
    ),
    "AnylbNoBgpSession": (
        [
            ('anylb_bgp_session_up{instance="b1",peer="r1"}', "0", "1"),
            ('anylb_bgp_session_up{instance="b1",peer="r2"}', "0", "0"),
        ],
        'instance="b1"',
    ),
    "AnylbBgpSessionDown": ([('anylb_bgp_session_up{instance="b1",peer="r1"}', "0", "1")], 'instance="b1",peer="r1"'),
    "AnylbVipNotAnnounced": (
        [
            ('anylb_vip_wanted{instance="b1",vip="192.0.2.10"}', "1", "0"),
            ('anylb_vip_announced{instance="b1",vip="192.0.2.10"}', "0", "0"),
        ],
        'instance="b1",vip="192.0.2.10"',
    ),
    "AnylbConfigRefused": ([('anylb_config_refused{instance="b1"}', "1", "0")], 'instance="b1"'),
    "AnylbDrops": (
        [
            ('anylb_packets_total{instance="b1",service="web",verdict="drop",event="drop_no_member"}', "0+9000", "0+9"),
            ('anylb_packets_total{instance="b1",service="web",verdict="drop",event="drop_denied"}', "_", "0+9000"),
        ],
        'event="drop_no_member",instance="b1",service="web"',
    ),
    "AnylbConnectionsLost": (
        [('anylb_packets_total{service="web",verdict="deliver",event="deliver_chain_end"}', "0+9000", "0+900")],
        'service="web"',
    ),
    "AnylbClaimsNearlyFull": (
        [('anylb_claims_nearly_full_rows{instance="b1",service="web"}', "20", "0")],
        'instance="b1",service="web"',
    ),
    "AnylbClaimsFull": (
        [('anylb_claims_full_rows{instance="b1",service="web"}', "3", "0")],
        'instance="b1",service="web"',
    ),
    "AnylbNatSessionsFull": (
        [
            ('anylb_nat_sessions{instance="b1",state="free"}', "10", "30"),
            ('anylb_nat_session_slots{instance="b1"}', "100", "100"),
        ],
        'instance="b1"',
    ),
    "AnylbBackendDown": (
        [
            ('anylb_backend_healthy{instance="b1",service="web",backend="10.9.0.11:80"}', "0", "0"),
            ('anylb_backend_healthy{instance="b2",service="web",backend="10.9.0.11:80"}', "0", "1"),
        ],
        'backend="10.9.0.11:80",service="web"',
    ),
}
"""By alert: series, the value with which it fires, one with which it does not; then the labels of what fires."""


def unit_test(alert: str, fires: bool) -> dict[str, Any]:
    """Return promtool's test of one alert."""
    series, labels = CASES[alert]
    shown = (
        f'ALERTS{{alertname="{alert}",alertstate="firing",severity="{ALERTS[alert]["labels"]["severity"]}",{labels}}}'
    )
    return {
        "name": f"{alert} {'fires' if fires else 'does not fire'}",
        "interval": "30s",
        "input_series": [
            {"series": name, "values": f"{bad if fires else good}x{SAMPLES}"} for name, bad, good in series
        ],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                "eval_time": f"{SAMPLES // 2 - 1}m",
                "exp_samples": [{"labels": shown, "value": 1}] if fires else [],
            }
        ],
    }


def test_each_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.slow
def test_alerts_fire_when_they_must_and_only_then(tmp_path: Path) -> None:
    tests = [unit_test(alert, fires) for alert in CASES for fires in (True, False)]
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_control_an_alert_that_should_not_fire_is_noticed(tmp_path: Path) -> None:
    wrong = unit_test("AnylbCritical", True)
    wrong["promql_expr_test"][0]["exp_samples"] = []
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [wrong]}))
    assert subprocess.run(["promtool", "test", "rules", file], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("alert", ALERTS)
def test_each_names_what_is_wrong_and_the_next_step(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["next_step"].endswith(".")
    assert set(re.findall(r"anylb_[a-z_]+", rule["expr"])) <= set(METRICS)
    used = re.findall(r"\$labels\.([a-z]+)", str(rule["annotations"]))
    assert all(f'{label}="' in CASES[alert][1] for label in used), "a label that the alert does not have is empty"


def table() -> str:
    """Return the alerts as the page has them."""
    lines = ["| alert | severity | after | text | what to do |", "|---|---|---|---|---|"]
    for name, rule in ALERTS.items():
        texts = [rule["annotations"][key] for key in ("summary", "next_step")]
        texts = [re.sub(r"\{\{ *\$(?:labels\.)?(\w+)[^}]*\}\}", lambda m: m[1].upper(), text) for text in texts]
        lines.append(" | ".join([f"| `{name}`", rule["labels"]["severity"], rule.get("for", "at once"), *texts]) + " |")
    return "\n".join(lines) + "\n"


def test_page_lists_the_alerts() -> None:
    assert table() in (RULES.parents[1] / "monitoring.md").read_text(), f"docs/monitoring.md lacks:\n{table()}"
