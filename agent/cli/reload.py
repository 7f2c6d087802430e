# SPDX-License-Identifier: Apache-2.0
"""Having an agent read its configuration again, and waiting until it is ready with it."""

from __future__ import annotations

import time
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
    """Return once the agent is ready with the new configuration. Raises AgentError if it is not in time, or refuses.

    The kernel may refuse what the file alone does not show. Then the agent is ready again with its previous one.
    """
    from agent.cli.client import call_within

    generation = call_within(socket, "POST", "/reload", OPEN_S, {"force": "yes"} if force else {})["generation"]
    deadline = time.monotonic() + TIMEOUT_S
    refused = ""
    while time.monotonic() < deadline:
        try:
            status = request(socket, "GET", "/status")
        except NotRunningError:  # between the old agent and the new one no server listens
            time.sleep(POLL_S)
            continue
        if status["config"]["generation"] >= generation:
            refused = status["config"]["refused"] or ""
            if status["ready"] and refused:
                raise AgentError(f"{refused}\nthe agent keeps its previous configuration")
            if status["ready"]:
                return {"ok": True, "generation": status["config"]["generation"]}
        time.sleep(POLL_S)
    late = f"the agent is not ready {TIMEOUT_S:g} s after the reload; see `lbctl status` and its log"
    raise AgentError(f"{refused}\n{late}" if refused else late)
