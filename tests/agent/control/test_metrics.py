# SPDX-License-Identifier: Apache-2.0
"""The metrics of a node: names by Prometheus's conventions, equal with docs/monitoring.md, from one whole status."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.free_port import free_port
from support.node_status import node_status, page_sources

from agent.config.file import parse
from agent.config.metrics import MetricsConfig
from agent.control.check import Checked
from agent.control.metric_list import COUNTER, METRICS, PROCESS, render
from agent.control.metrics import render as render_metrics
from agent.control.metrics_server import serve_metrics
from agent.errors import ConfigError

ROOT = Path(__file__).parents[3]
WALL = 1_700_000_000.0
GOOD = Checked("ok", (), "all is well", {})


@pytest.fixture(scope="module")
def text() -> str:
    return render_metrics(node_status(), GOOD, "1.2.3", WALL).decode()


Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def values(text: str) -> Values:
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            key = (one.name, frozenset(one.labels.items()))
            assert key not in found
            found[key] = one.value
    return found


def test_the_page_lists_them_all() -> None:
    command = "python -m agent.control.metric_list docs/monitoring.md"
    assert (ROOT / "docs/monitoring.md").read_text().endswith(render()), command


def test_every_metric_of_the_list_is_in_a_whole_status_and_no_other(values: Values) -> None:
    assert {key[0] for key in values} == {*METRICS, *PROCESS}


@pytest.mark.parametrize("name", METRICS)
def test_names_keep_to_the_conventions(name: str) -> None:
    metric = METRICS[name]
    assert re.fullmatch(r"anylb_[a-z_]+", name)
    assert name.endswith("_total") == (metric.kind == COUNTER)
    assert not re.search(r"_(ms|ns|us|kb|mb|percent|count)(_|$)", name), "base units"
    assert "client" not in metric.labels
    assert metric.meaning.endswith(".")


def test_promtool_has_no_complaint(text: str) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_values(values: Values) -> None:
    def value(name: str, **labels: str) -> float | None:
        return values.get((f"anylb_{name}", frozenset(labels.items())))

    assert value("info", version="1.2.3", node="10.0.0.11", cluster="7", xdp_mode="native") == 1
    assert value("packets_total", service="web", verdict="drop", event="drop_grace") == 5
    assert value("packets_total", service="", verdict="pass", event="pass_no_service") == 7
    assert value("packet_events_total", service="web", event="rx") == 100
    assert value("packets_total", service="web", verdict="drop", event="drop_nat_full") is None, "it has no NAT"
    assert value("packets_total", service="nat", verdict="drop", event="drop_nat_full") == 0
    assert value("echo_round_trip_seconds", member="10.0.0.12", path="plain") == 0.00025
    assert value("members", state="lost") == 1
    assert value("bgp_session_change_timestamp_seconds", peer="10.0.0.1") == WALL - 60
    assert value("instances", service="web", state="active") == 2


def served(found: Checked, *paths: str, method: str = "GET") -> list[tuple[int, str]]:
    """What the endpoint answers."""
    port = free_port()

    def fetch(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    async def main() -> list[tuple[int, str]]:
        config = MetricsConfig(listen=f"127.0.0.1:{port}")
        async with serve_metrics(config, lambda: (node_status(), found), page_sources()) as problem:
            assert problem is None
            return [await asyncio.to_thread(fetch, path) for path in paths]

    return asyncio.run(main())


def test_the_endpoint() -> None:
    metrics, health, other = served(GOOD, "/metrics", "/health", "/status")
    assert metrics[0] == 200
    assert "anylb_ready 1.0" in metrics[1]
    assert (health[0], json.loads(health[1])["state"]) == (200, "ok")
    assert other[0] == 404, "it serves nothing of the control socket"
    assert served(GOOD, "/metrics", method="POST")[0][0] == 405


@pytest.mark.parametrize(("state", "code"), [("warning", 200), ("critical", 503)])
def test_health_by_its_code(state: str, code: int) -> None:
    assert served(Checked(state, (), "", {}), "/health")[0][0] == code


def test_a_port_that_is_taken_is_a_problem_and_off_serves_nothing() -> None:
    async def main(listen: Any) -> str | None:
        async with serve_metrics(
            MetricsConfig(listen=listen), lambda: (node_status(), GOOD), page_sources()
        ) as problem:
            return problem

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        problem = asyncio.run(main(listen))
    assert problem is not None
    assert problem.startswith(f"metrics are not served at {listen}: ")
    assert problem.endswith("change metrics.listen")
    assert asyncio.run(main(False)) is None


CONFIG = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("off", None),
        ('"[::1]:9742"', (ip_address("::1"), 9742)),
        ("10.0.0.11:80", (ip_address("10.0.0.11"), 80)),
    ],
)
def test_where_it_listens(listen: str, endpoint: Any) -> None:
    assert parse(f"{CONFIG}metrics: {{listen: {listen}}}\n", "lb.yml").metrics.endpoint == endpoint
    assert parse(CONFIG, "lb.yml").metrics.endpoint == (ip_address("127.0.0.1"), 9742)


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("9742", "is no address with a port"),
        ("localhost:9742", "is no address with a port"),
        ("127.0.0.1", "is no address with a port"),
        ("127.0.0.1:0", "the port is not in 1-65535"),
        ("127.0.0.1:x", "the port is not in 1-65535"),
        ('"::1:9742"', "in brackets"),
        ("[1, 2]", "is no address with a port"),
    ],
)
def test_wrong_addresses(listen: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"lb.yml:6:.*metrics.listen: .*{re.escape(why)}"):
        parse(f"{CONFIG}metrics: {{listen: {listen}}}\n", "lb.yml")
