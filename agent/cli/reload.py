# SPDX-License-Identifier: Apache-2.0
"""Having an agent read its configuration again, and waiting until it is ready with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cli.options import request
from agent.errors import AgentError, NotRunningError

OPEN_S = 120.0
"""How long the agent may take to open the new data path, before anything changes: compiling takes seconds, and a minute
at most on a machine that is busy."""
TIMEOUT_S = 30.0
"""How long the new agent may take to be ready."""
POLL_S = 0.05


def reload(socket: Path, force: bool = False) -> dict[str, Any]:
    """Return once the agent is ready with lb.yml. Raises AgentError if it is not in time, or refuses."""
    return change(socket, "/reload", {"force": "yes"} if force else {})


def change(socket: Path, resource: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return once the agent is ready with what a request changed, and ExaBGP too. Raises as `reload` does.

    The kernel may refuse what the file alone does not show. Then the agent is ready again with its previous one.
    """
    from agent.cli.client import call_within

    generation = call_within(socket, "POST", resource, OPEN_S, query)["generation"]
    deadline = time.monotonic() + TIMEOUT_S
    refused = ""
    while time.monotonic() < deadline:
        try:
            status = request(socket, "GET", "/status")
        except NotRunningError:  # between the old agent and the new one no server listens
            time.sleep(POLL_S)
            continue
        config = status["config"]
        if config["generation"] >= generation:
            refused = config["refused"] or ""
            if status["ready"] and refused:
                raise AgentError(f"{refused}\nthe agent keeps its previous configuration")
            if status["ready"] and config["speaker"]:
                raise AgentError(config["speaker"])
            if status["ready"] and config["settled"]:
                return {"ok": True, "generation": config["generation"]}
        time.sleep(POLL_S)
    late = f"the agent, or ExaBGP, is not ready {TIMEOUT_S:g} s after the change; see `lbctl status` and their logs"
    raise AgentError(f"{refused}\n{late}" if refused else late)
