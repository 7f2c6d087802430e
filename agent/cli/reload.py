# SPDX-License-Identifier: Apache-2.0
"""Having an agent read its configuration again, and waiting until it is ready with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from agent.cli.options import request
from agent.errors import AgentError, NotRunningError

TIMEOUT_S = 30.0
"""A data path that must be compiled again takes seconds."""


def reload(socket: Path) -> dict[str, Any]:
    """Return once the agent runs the new configuration. Raises AgentError if it refuses, or is not ready in time."""
    generation = request(socket, "POST", "/reload")["generation"]
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            status = request(socket, "GET", "/status")
        except NotRunningError:  # between the old agent and the new one no server listens
            time.sleep(0.05)
            continue
        if status["config"]["generation"] >= generation and status["config"]["refused"]:
            raise AgentError(f"{status['config']['refused']}\nthe agent keeps its previous configuration")
        if status["config"]["generation"] >= generation and status["ready"]:
            return {"ok": True, "generation": status["config"]["generation"]}
        time.sleep(0.05)
    raise AgentError(f"the agent is not ready {TIMEOUT_S:g} s after the reload; see `lbctl status` and its log")
