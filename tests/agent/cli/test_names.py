# SPDX-License-Identifier: Apache-2.0
"""The shell completes names of services, VIPs, nodes and instances by what the agent knows; none without an agent."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from support.node_status import node_status

from agent.cli import names


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Answer requests with a status; return what was asked."""
    asked: list[tuple[Any, ...]] = []

    def call(*request: Any) -> dict[str, Any]:
        asked.append(request)
        return node_status()

    monkeypatch.setattr("agent.cli.client.call_within", call)
    return asked


@pytest.mark.parametrize(
    ("complete", "incomplete", "found"),
    [
        (names.services, "", ["nat", "web"]),
        (names.services, "w", ["web"]),
        (names.vips, "192", ["192.0.2.10"]),
        (names.nodes, "10.0.0.1", ["10.0.0.11", "10.0.0.12", "10.0.0.13"]),
        (names.instances, "", ["a", "b"]),
        (names.instances, "x", []),
    ],
)
def test_names_are_completed(
    complete: names.Complete, incomplete: str, found: list[str], agent: list[tuple[Any, ...]]
) -> None:
    context = click.Context(click.Command("status"))
    context.params["socket"] = Path("/elsewhere.sock")
    assert complete(context, click.Option(["--service"]), incomplete) == found
    assert agent == [(Path("/elsewhere.sock"), "GET", "/status", names.ASK_S)]


def test_without_an_agent_nothing_is_completed(tmp_path: Path) -> None:
    context = click.Context(click.Command("status"))
    context.params["socket"] = tmp_path / "none.sock"
    assert names.services(context, click.Option(["--service"]), "") == []


def test_the_shell_completes_commands() -> None:
    """As the script of the package asks: by the environment."""
    done = subprocess.run(
        [sys.executable, "-c", "from agent.cli.main import main; main(prog_name='lbctl')"],
        env={"_LBCTL_COMPLETE": "bash_complete", "COMP_WORDS": "lbctl ba", "COMP_CWORD": "1", "PATH": "/usr/bin"},
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["plain,backend"]
