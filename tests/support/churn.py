# SPDX-License-Identifier: Apache-2.0
"""Seeded churn of segment.clab.yml: which node joins, drains, leaves or loses its power or its agent, and when.

The plan is pure: a seed gives the same events again. `play` carries them out, and opens connections all along.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Sequence as Ordered
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

from support.cluster_lab import ClusterLab
from support.segment_faults import end, lists, without_power
from support.sequence import Sequence
from support.waiting import wait_for

PAUSE_S = 1.5, 3.5
"""Between two events."""
BOOT_S = 4.0, 8.0
"""From the loss of a node's power until it boots."""
AGENT_S = 1.0, 3.0
"""From an agent's death until another one starts."""
LEAST_TAKERS = 2


class Act(StrEnum):
    """What happens to a node."""

    JOIN = "join"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    LEAVE = "leave"
    CRASH = "crash"
    BOOT = "boot"
    KILL_AGENT = "kill agent"
    START_AGENT = "start agent"


AFTER = {
    Act.JOIN: ("away", "up"), Act.DRAIN: ("up", "draining"), Act.UNDRAIN: ("draining", "up"),
    Act.LEAVE: ("draining", "away"), Act.CRASH: ("up", "dead"), Act.BOOT: ("dead", "up"),
    Act.KILL_AGENT: ("up", "without agent"), Act.START_AGENT: ("without agent", "up"),
}  # fmt: skip
"""The state of a node before and after."""
WEIGHTS = {Act.JOIN: 4, Act.DRAIN: 3, Act.UNDRAIN: 2, Act.LEAVE: 3, Act.CRASH: 2, Act.KILL_AGENT: 3}
RETURNS = {Act.CRASH: (Act.BOOT, BOOT_S), Act.KILL_AGENT: (Act.START_AGENT, AGENT_S)}


@dataclass(frozen=True, order=True)
class Event:
    """Something that happens to a node, so many seconds after the begin."""

    at_s: float
    act: Act
    node: str


def plan(seed: int, seconds: float, nodes: Ordered[str], up: Ordered[str]) -> list[Event]:
    """Return the events of so many seconds; at first these nodes are `up`, at the end all nodes.

    `LEAST_TAKERS` nodes at least take new flows, and one at most is dead: more deaths leave connections of no owner.
    """
    chance, states = random.Random(seed), {node: "up" if node in up else "away" for node in nodes}
    events: list[Event] = []
    pending: list[Event] = []

    def happen(event: Event) -> None:
        before, states[event.node] = states[event.node], AFTER[event.act][1]
        assert before == AFTER[event.act][0], event
        events.append(event)
        if event.act in RETURNS:
            act, delay_s = RETURNS[event.act]
            heapq.heappush(pending, Event(event.at_s + chance.uniform(*delay_s), act, event.node))

    at_s = chance.uniform(*PAUSE_S)
    while at_s < seconds:
        while pending and pending[0].at_s < at_s:
            happen(heapq.heappop(pending))
        spare = list(states.values()).count("up") > LEAST_TAKERS
        barred = {Act.CRASH} if "dead" in states.values() else set()
        possible = [
            (act, node)
            for act in WEIGHTS.keys() - barred
            for node, state in states.items()
            if state == AFTER[act][0] and (spare or state != "up")
        ]
        acts = sorted({act for act, _ in possible})
        act = chance.choices(acts, [WEIGHTS[one] for one in acts])[0]
        happen(Event(at_s, act, chance.choice([node for one, node in possible if one is act])))
        at_s += chance.uniform(*PAUSE_S)
    while pending:
        happen(heapq.heappop(pending))
    back = {"away": Act.JOIN, "draining": Act.UNDRAIN}
    for node in [node for node, state in states.items() if state in back]:
        happen(Event(max(at_s, events[-1].at_s), back[states[node]], node))
    return events


class Churn:
    """Churn under way."""

    def __init__(self, cluster: ClusterLab, sequence: Sequence) -> None:
        self._cluster, self._sequence = cluster, sequence
        self._without_power: dict[str, AbstractContextManager[None]] = {}

    def play(self, events: Ordered[Event], connections: int) -> None:
        """Let these events happen, and open so many connections along with them.

        An event waits for the one before it, so all of them may take longer than planned.
        """
        began = time.monotonic()
        for event in events:
            time.sleep(max(0.0, began + event.at_s - time.monotonic()))
            self._sequence.open(connections // len(events))
            print(f"{time.monotonic() - self._sequence.fault_at:6.1f} s: {event.act} {event.node}")
            self._happen(event)

    def _happen(self, event: Event) -> None:
        cluster, node = self._cluster, event.node
        match event.act:
            case Act.JOIN:
                cluster.start(node, *(one for one in ("server", "speaker", "agent") if not cluster.pids(node, one)))
            case Act.DRAIN:
                drain(cluster, node)
            case Act.UNDRAIN:
                wait_for(lambda: cluster.agent_answers(node), f"{node}'s agent")
                cluster.request(node, "POST", "/undrain")
            case Act.LEAVE:
                leave(cluster, self._sequence, node)
            case Act.CRASH:
                self._without_power[node] = without_power(cluster, node)
                self._without_power[node].__enter__()
                self._sequence.forget(node)
            case Act.BOOT:
                self._without_power.pop(node).__exit__(None, None, None)
            case Act.KILL_AGENT:
                cluster.kill(node, "agent")
            case Act.START_AGENT:
                cluster.start(node, "agent")


def drain(cluster: ClusterLab, node: str) -> None:
    """Have a node drain, once its agent, which may have just been started, knows another node that announces the VIP:
    before, it refuses."""

    def knows_another() -> bool:
        return all(vip["others"] for vip in cluster.request(node, "GET", "/announce")["vips"])

    wait_for(lambda: cluster.service_status(node) and knows_another(), f"{node} to know another")
    cluster.request(node, "POST", "/drain")


def leave(cluster: ClusterLab, sequence: Sequence, node: str) -> None:
    """Have a node drain and leave; its own connections are closed in between."""
    drain(cluster, node)
    wait_for(lambda: node not in cluster.next_hops(), f"{node} to drain")
    sequence.forget(node)
    cluster.request(node, "POST", "/leave")
    others = cluster.addresses.keys() - {node}
    wait_for(lambda: not any(lists(cluster, one, node) for one in others), f"{node} to have left")
    end(cluster, node)
