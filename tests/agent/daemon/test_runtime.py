# SPDX-License-Identifier: Apache-2.0
"""The heap that is exempt from garbage collection does not grow with each reload."""

import subprocess
import sys
from pathlib import Path

AGENT_OF_THE_COLLECTOR = """
import weakref
from agent.daemon.runtime import freeze_heap

class Agent:
    def __init__(self):
        self.itself = self  # only the collector frees it

agent = Agent()
before = weakref.ref(agent)
freeze_heap()
agent = Agent()
freeze_heap()
print(before(), agent.itself is agent)
"""


def test_the_agent_before_a_reload_is_freed() -> None:
    """In a process with a small heap, which is collected soon."""
    command = [sys.executable, "-c", AGENT_OF_THE_COLLECTOR]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert result.stdout == "None True\n"
