# SPDX-License-Identifier: Apache-2.0
"""The page for people: served on loopback only, whole in one file, and right in a browser where there is one."""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.free_port import free_port
from support.node_status import node_status, page_sources

from agent.announcing.alert import CRITICAL, Alert
from agent.config.metrics import MetricsConfig
from agent.control.check import Checked
from agent.control.metrics_server import PAGE, serve_metrics
from agent.errors import AgentError

FAULT = Checked("critical", (Alert(CRITICAL, "web: no router has its VIP"),), "1 of 3 members up", {})
CHROMIUM = shutil.which("chromium")


def explain(text: str) -> Mapping[str, Any]:
    if not text.startswith("tcp,"):
        raise AgentError(f"'{text}' is not a flow")
    return {"service": "web", "row": 7, "chain": ["10.0.0.12"], "nodes": []}


EVENTS = [
    {"time": 1_700_000_100.0, "level": "warning", "text": "BGP session with 10.0.0.1 is down: timed out"},
    {"time": 1_700_000_000.0, "level": "info", "text": "requested: /deny/add prefix=192.0.2.7"},
]


def members() -> Iterator[list[dict[str, Any]]]:
    """Yield the cluster again and again, a second later each time: of four packets one is 10.0.0.11's."""
    for second in itertools.count(1):
        yield [account("10.0.0.11", second, 30), account("10.0.0.12", second, 90, fault="disk full there")]


def account(address: str, second: int, per_s: int, fault: str | None = None) -> dict[str, Any]:
    load = {"from_routers": second * per_s, "forwarded": 0}
    found = {"read_ns": second * 10**9, "load": load, "verdict": "warning", "faults": 1, "first_fault": fault}
    return {"address": address, "why": None, "overview": found}


def unreadable() -> Sequence[Mapping[str, Any]]:
    raise OSError(5, "Input/output error", "events.jsonl")


def with_page(use: Callable[[str], Any], address: str = "127.0.0.1", events: Callable[[], Any] = lambda: EVENTS) -> Any:
    """Serve the page, and call `use` with its URL in a thread."""

    async def main() -> Any:
        where = f"{address}:{free_port()}"
        found = members()

        async def cluster() -> Mapping[str, Any]:
            return {"members": next(found)}

        sources = replace(page_sources(explain, events), cluster=cluster)
        async with serve_metrics(MetricsConfig(listen=where), lambda: (node_status(), FAULT), sources) as problem:
            assert problem is None
            return await asyncio.to_thread(use, f"http://{where}")

    return asyncio.run(main())


def fetch(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
            return response.status, response.headers["content-type"], response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def test_the_page_and_what_it_asks_for() -> None:
    code, kind, text = with_page(lambda url: fetch(f"{url}/"))
    assert (code, kind) == (200, "text/html; charset=utf-8")
    assert text == PAGE.read_text(encoding="utf-8")
    assert '"address": "10.0.0.11"' in with_page(lambda url: fetch(f"{url}/status.json"))[2]
    assert '"row": 7' in with_page(lambda url: fetch(f"{url}/explain.json?tuple=tcp,1:2,3:4"))[2]
    code, _, text = with_page(lambda url: fetch(f"{url}/explain.json?tuple=nonsense"))
    assert (code, text) == (400, """{"error": "'nonsense' is not a flow"}""")


@pytest.mark.parametrize("path", ["/", "/status.json", "/explain.json"])
def test_other_machines_get_the_metrics_only(path: str) -> None:
    assert with_page(lambda url: fetch(url.replace("0.0.0.0", "127.0.0.1") + path)[0], "0.0.0.0") == 404  # noqa: S104


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given["id"] or ""} if "id" in given else set()
        self.outside += [name for name in ("src", "href", "action") if name in given]
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_uses_nothing_from_elsewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    page = _Elements()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert set(re.findall(r'at\("([a-z]+)"\)', text)) <= page.ids
    assert "prefers-color-scheme: dark" in text
    assert "innerHTML" not in text, "what nodes and services are called is text, never markup"


def test_events_name_requests_without_their_values() -> None:
    text = with_page(lambda url: fetch(f"{url}/events.json"))[2]
    assert [one["text"] for one in json.loads(text)["events"]] == [EVENTS[0]["text"], "requested: /deny/add"]
    code, _, text = with_page(lambda url: fetch(f"{url}/events.json"), events=unreadable)
    assert (code, json.loads(text)) == (500, {"error": "events.jsonl: Input/output error"})


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium, the browser that shows the page: ./setup.sh installs it"
)
def test_a_browser_shows_the_node(tmp_path: Path) -> None:
    def browse(url: str) -> str:
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom", f"{url}/",
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    shown = with_page(browse)
    assert "CRITICAL: 1 of 3 members up" in shown
    assert "web: no router has its VIP" in shown
    for text in ("10.0.0.11, cluster 7", "10.0.0.13", "lost", "192.0.2.10:443", "All 3 nodes agree"):
        assert text in shown, text
    for text in ("is down: timed out", "disk full there", "30 (25 %)", "90 (75 %)", "75 % of ECMP"):
        assert text in shown, text
