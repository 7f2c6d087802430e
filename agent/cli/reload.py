# SPDX-License-Identifier: Apache-2.0
"""Having an agent take in its configuration anew, and waiting until it has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from agent.cli.options import ask
from agent.errors import AgentError, NotRunningError

TIMEOUT_S = 30.0
"""A data path that must be compiled anew takes seconds."""


def reload(socket: Path) -> dict[str, Any]:
    """Return when the agent has taken the configuration in. AgentError when it refuses, or is not ready in time."""
    generation = ask(socket, "POST", "/reload")["generation"]
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            status = ask(socket, "GET", "/status")
        except NotRunningError:  # between two agents nobody listens
            time.sleep(0.05)
            continue
        if status["config"]["generation"] >= generation and status["config"]["refused"]:
            raise AgentError(f"{status['config']['refused']}\nthe agent goes on with the configuration before")
        if status["config"]["generation"] >= generation and status["ready"]:
            return {"ok": True, "generation": status["config"]["generation"]}
        time.sleep(0.05)
    raise AgentError(f"the agent has not been ready for {TIMEOUT_S:g} s since; see `lbctl status` and its log")
