# SPDX-License-Identifier: Apache-2.0
"""The heap that is exempt from garbage collection does not grow with each reload; the start is not held up."""

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


THREADS = """
import os
import agent.cli.main
import numpy
print(len(os.listdir("/proc/self/task")))
"""
DEFERRED = """
import gc
from agent.daemon.runtime import defer_collection, freeze_heap
defer_collection()
print(gc.isenabled())
freeze_heap()
print(gc.isenabled())
"""


def output(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]).stdout


def test_numpy_starts_no_threads() -> None:
    assert output(THREADS) == "1\n"


def test_garbage_is_collected_once_all_is_imported() -> None:
    assert output(DEFERRED) == "False\nTrue\n"


def test_the_agent_before_a_reload_is_freed() -> None:
    """In a process with a small heap, which is collected soon."""
    assert output(AGENT_OF_THE_COLLECTOR) == "None True\n"
