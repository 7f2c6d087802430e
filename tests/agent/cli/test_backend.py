# SPDX-License-Identifier: Apache-2.0
"""`lbctl backend` for the backends of NAT services: what it requests, and what it prints."""

from collections.abc import Callable
from typing import Any

import pytest

from agent.cli import backend
from agent.cli.backend_display import print_backends

Run = Callable[..., tuple[str, str]]
SERVER = {
    "service": "web", "address": "10.9.0.11:8443", "weight": 100, "healthy": True, "why": "", "checked_here": True,
    "drained": True, "sessions": 1234, "elsewhere": 5,
}  # fmt: skip


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.setenv("COLUMNS", "150")
    found: list[dict[str, str]] = []

    def request(_socket: object, _method: str, _resource: str, /, **query: str) -> dict[str, Any]:
        found.append(query)
        return {"backend": SERVER | {"drained": query["drained"] == "yes"}, "services": []}

    monkeypatch.setattr(backend, "request", request)
    return found


def test_one_backend_of_a_nat_service_is_drained(run: Run, requested: list[dict[str, str]]) -> None:
    out, _ = run("backend", "drain", "web", "10.9.0.11:8443")
    assert requested == [{"service": "web", "backend": "10.9.0.11:8443", "drained": "yes"}]
    assert out == "web: 10.9.0.11:8443 takes no new sessions on any node; sessions: 1,234 here, 5 elsewhere\n"
    out, _ = run("backend", "undrain", "web", "10.9.0.11:8443")
    assert requested[1]["drained"] == "no"
    assert "takes new sessions again" in out


def test_without_arguments_it_is_this_node(run: Run, requested: list[dict[str, str]]) -> None:
    run("backend", "drain", "--service", "web")
    assert requested == [{"service": "web", "drained": "yes"}]


@pytest.mark.parametrize(
    "arguments", [["web"], ["web", "10.9.0.11:1", "x"], ["web", "10.9.0.11:1", "--service", "web"]]
)
def test_service_and_backend_go_together(run: Run, requested: list[dict[str, str]], arguments: list[str]) -> None:
    assert "name the service and one backend of it" in run("backend", "drain", *arguments, code=2)[1]
    assert not requested


def test_list_shows_health_sessions_and_drains(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    down = SERVER | {
        "address": "[fd00:9::1]:1",
        "healthy": False,
        "why": "refused",
        "drained": False,
        "elsewhere": None,
    }
    down |= {"checked_here": False, "sessions": 0}
    print_backends({"backends": [], "nat_backends": [SERVER, down]})
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["web", "10.9.0.11:8443", "up", "100", "1,234", "here,", "5", "elsewhere", "drained"]
    expected = ["web", "[fd00:9::1]:1", "down", "refused", "100", "0", "here"]
    assert second.split() == [*expected, "checked", "by", "other", "nodes"]
