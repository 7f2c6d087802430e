# SPDX-License-Identifier: Apache-2.0
"""docs/monitoring/*.json, against Debian's Prometheus, which scrapes an agent's endpoint: each expression of each panel
parses, uses metrics that there are, and has data."""

import asyncio
import json
import re
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.free_port import free_port
from support.node_status import node_status, page_sources
from support.waiting import wait_for

from agent.config.metrics import MetricsConfig
from agent.control.check import Checked
from agent.control.metric_list import METRICS, PROCESS
from agent.control.metrics_server import serve_metrics

FOLDER = Path(__file__).parents[3] / "docs/monitoring"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
VARIABLES = {"$__rate_interval": "5s", "$node": ".*", "$service": ".*"}


def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def agent() -> Iterator[int]:
    """The port of an endpoint with a whole status."""
    port, loop, ending = free_port(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        found = Checked("warning", (), "", {})
        async with serve_metrics(
            MetricsConfig(listen=f"127.0.0.1:{port}"), lambda: (node_status(), found), page_sources()
        ):
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    yield port
    loop.call_soon_threadsafe(ending.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def prometheus(agent: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Prometheus that scrapes it, with our rules."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "anylb.rules.yml")],
        "scrape_configs": [{"job_name": "anylb", "static_configs": [{"targets": [f"127.0.0.1:{agent}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        "setpriv",
        "--pdeathsig=KILL",
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
    ]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with subprocess.Popen(command) as process:
        try:
            wait_for(lambda: len(values(port, "process_cpu_seconds_total[30s]")) > 2, "three scrapes")
            yield port
        finally:
            process.terminate()


def query(port: int, expression: str) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def values(port: int, expression: str) -> list[Any]:
    """The samples of one range, none while Prometheus starts."""
    try:
        found = query(port, expression)["data"]["result"]
    except (OSError, ValueError, KeyError):
        return []
    return list(found[0]["values"]) if found else []


def test_there_are_three() -> None:
    assert {board["uid"] for board in BOARDS.values()} == {"anylb-fleet", "anylb-node", "anylb-service"}


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_a_place_of_their_own_and_use_what_there_is(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    declared = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
    for expression in expressions(BOARDS[name]):
        assert set(re.findall(r"(?:anylb|process)_[a-z_]+", expression)) <= set(METRICS | PROCESS), expression
        assert {one.removeprefix("$") for one in re.findall(r"\$[a-z]\w*", expression)} <= declared


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_every_expression_has_data_in_prometheus(prometheus: int, name: str) -> None:
    for expression in expressions(BOARDS[name]):
        text = expression
        for variable, value in VARIABLES.items():
            text = text.replace(variable, value)
        found = query(prometheus, text)
        assert found["status"] == "success", f"{expression}: {found.get('error')}"
        assert found["data"]["result"], f"{expression} has no data"


@pytest.mark.slow
def test_prometheus_loads_the_rules_and_the_control_is_an_error(prometheus: int) -> None:
    wait_for(lambda: query(prometheus, 'ALERTS{alertname="AnylbWarning"}')["data"]["result"], "a pending alert")
    assert query(prometheus, "sum by (")["status"] == "error"
