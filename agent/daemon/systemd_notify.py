# SPDX-License-Identifier: Apache-2.0
"""What systemd is sent about the agent: when it serves, that it is alive, and a line for `systemctl status`.

READY=1 comes when packets are forwarded and the VIPs are there. The watchdog is fed by the event loop, and not while
the kernel does not return from writing tables: a process that hangs is killed and started again, before the relay
counts it as gone and withdraws its VIPs.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from agent.node.agent import Agent
from agent.problem import ProblemLine
from agent.tick import sleep_until_next
from bgp.sd_notify import notify, status, watchdog_s

INTERVAL_S = 0.5


class Condition(NamedTuple):
    """What the line reports."""

    ready: bool
    services: int
    members: int
    problems: tuple[ProblemLine, ...]


def line(condition: Condition) -> str:
    """Return the line of `systemctl status`. Pure."""
    state = "starting"
    if condition.ready:
        state = f"serving {_count(condition.services, 'service')} with {_count(condition.members, 'member')}"
    if not condition.problems:
        return state
    return f"{state}; {_count(len(condition.problems), 'problem')}: {condition.problems[0]}"


class SystemdNotifier:
    """The reports of one agent after the other."""

    def __init__(self) -> None:
        self._sent: tuple[str, ...] = ()

    async def follow(self, agent: Agent) -> None:
        """Report about an agent until canceled: READY=1 once, the line when it changes, the watchdog each time."""
        interval_s = min(INTERVAL_S, (watchdog_s() or math.inf) / 4)
        while True:
            self.report(condition_of(agent))
            if not agent.is_stuck(time.monotonic()):
                notify("WATCHDOG=1")
            await sleep_until_next(interval_s)

    def report(self, condition: Condition) -> None:
        """Send what has changed."""
        text = status(line(condition))
        news = ("READY=1", text) if condition.ready else (text,)
        if news != self._sent:
            self._sent = news
            notify(*news)

    def reloading(self) -> None:
        """Report that another agent takes over; the next one that is ready ends it."""
        self._sent = ()
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", status("applying the changed lb.yml"))

    def stopping(self) -> None:
        """Report that the agent leaves its routes."""
        notify("STOPPING=1", status("stopping: its routes are withdrawn first"))


def condition_of(agent: Agent) -> Condition:
    """Return what the line reports of an agent."""
    return Condition(agent.ready, len(agent.config.services), len(agent.members()), agent.problems())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
