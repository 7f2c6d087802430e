# SPDX-License-Identifier: Apache-2.0
"""The demo's results, from the connections of each step, and the verdict on them. Pure; owns demo.json's format.

Expected (the demo fails otherwise):

- anylb: no connection breaks in any step, and no new connection fails, except after a server was stopped or crashed
  without notice: then new ones may fail until the other nodes have noticed.
- plain ECMP, the negative control (for NAT, HAProxy on each node behind it): in each of add, drain, return, double,
  crash and replace a tenth of the connections breaks, not counting those on a crashed server. If fewer break, the
  traffic proves nothing.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from topology.demo.frame_capture import FrameCounts
from topology.traffic.connection import ATTEMPT_S
from topology.traffic.controller import ConnectionAttemptReport, HeldConnectionReport

ANYLB = "anylb"
ECMP = "ecmp"
NOT_IN_JSON = ("failed_late", "taken_late", "lag_ms")
#: The steps in which plain ECMP must break connections, and the share of them.
CONTROL_STEPS = ("add", "drain", "return", "double", "crash", "replace")
CONTROL_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step in one lab.

    Not in demo.json: `failed_late`, new connections that failed without excuse, `taken_late`, new connections on a
    server that must take none any more, and `lag_ms`, how late the client itself was.
    """

    step: str
    lab: str
    connections: int
    broken: int
    on_stopped: int
    failed_new: int
    failed_late: int
    taken_late: int
    longest_silence_ms: int
    router_ms: int | None
    agree_ms: int | None
    lag_ms: int = 0


@dataclass(frozen=True, slots=True)
class Convergence:
    """The moment of a step's action (CLOCK_MONOTONIC seconds), and how long router and tables took to converge."""

    action_at: float
    router_ms: int | None
    agree_ms: int | None

    @property
    def converged_at(self) -> float:
        """The moment from which the router and all tables were as expected."""
        return self.action_at + max(self.router_ms or 0, self.agree_ms or 0) / 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of a lab's connections over nodes: by ingress, and by owner."""

    ingress: Counter[str]
    owner: Counter[str]
    direct: int
    indirect: int
    missed: int
    counters: dict[str, Counter[str]] = field(default_factory=dict)


def spread_of(held: list[HeldConnectionReport], frames: FrameCounts, counters: dict[str, Counter[str]]) -> Spread:
    """Join the client's report of its connections with the frames of the segment."""
    ingress: Counter[str] = Counter()
    for one in held:
        ingress["+".join(sorted(frames.ingress.get(one.source, {"unseen"})))] += 1
    owner = Counter(one.owner for one in held)
    return Spread(ingress, owner, frames.direct, frames.indirect, frames.missed, counters)


def step_result(
    step: str,
    lab: str,
    held: Sequence[HeldConnectionReport],
    attempts: Sequence[ConnectionAttemptReport],
    convergence: Convergence,
    stopped: str | None = None,
    idle: str | None = None,
    lag_ms: int = 0,
) -> StepResult:
    """Count a step's connections.

    `stopped` names the server that was stopped or crashed, `idle` the one that must take no new connections after
    convergence.

    A new connection may fail only if a server was stopped and the attempt began before convergence: after it the first
    SYN reaches a server that accepts it. One begun earlier repeats its SYN too, but the dying server may reset it, or
    its 5 s may run out: it may have begun so long before the action.
    """
    elsewhere = [one for one in held if one.owner != stopped]
    failed = [one for one in attempts if one.outcome not in ("", "ok")]
    excused_from = convergence.action_at - ATTEMPT_S
    late = [one for one in failed if not (stopped and excused_from <= one.started_at <= convergence.converged_at)]
    return StepResult(
        step=step,
        lab=lab,
        connections=len(held),
        broken=sum(one.state == "broken" for one in elsewhere),
        on_stopped=len(held) - len(elsewhere),
        failed_new=len(failed),
        failed_late=len(late),
        taken_late=sum(one.owner == idle and one.started_at > convergence.converged_at for one in attempts)
        if idle
        else 0,
        longest_silence_ms=round(1000 * max((one.silence_s for one in elsewhere), default=0.0)),
        router_ms=convergence.router_ms,
        agree_ms=convergence.agree_ms,
        lag_ms=lag_ms,
    )


def deviations(results: Sequence[StepResult], control: str = "plain ECMP") -> list[str]:
    """Compare the results with the expectations; return one line for each deviation. `control` names that lab."""
    found = []
    for one in results:
        if one.lab == ANYLB and one.broken:
            found.append(f"{one.step}: anylb broke {one.broken} of {one.connections} connections, expected none")
        if one.lab == ANYLB and one.failed_late:
            found.append(f"{one.step}: anylb failed {one.failed_late} new connections without excuse, expected none")
        if one.lab == ANYLB and one.taken_late:
            found.append(f"{one.step}: a server took {one.taken_late} new connections that it must not take")
        elsewhere = one.connections - one.on_stopped
        if one.lab == ECMP and one.step in CONTROL_STEPS and one.broken < CONTROL_SHARE * elsewhere:
            found.append(
                f"{one.step}: {control} broke only {one.broken} of {elsewhere} connections, "
                f"expected {CONTROL_SHARE:.0%} at least: the traffic proves nothing"
            )
    return found


def spread_deviations(lab: str, spread: Spread) -> list[str]:
    """Compare a spread with the expectations: direct answers, and with anylb forwarding on each node.

    Without forwarding the lab would prove nothing: with four nodes the router's choice is the owner one time in four.
    """
    found = []
    if spread.indirect or not spread.direct:
        found.append(f"spread: {lab}: {spread.indirect} answers came through another node, {spread.direct} directly")
    if lab == ANYLB and not all(counter["forward_first"] for counter in spread.counters.values()):
        found.append("spread: anylb: a node forwarded nothing to owners")
    return found


def to_json(router: str, results: Sequence[StepResult]) -> str:
    """Render demo.json."""
    steps = [{name: value for name, value in asdict(one).items() if name not in NOT_IN_JSON} for one in results]
    return json.dumps({"router": router, "steps": steps}, indent=2) + "\n"


def write_json(path: Path, router: str, results: Sequence[StepResult]) -> None:
    """Write demo.json to a temporary file and rename that, so that no reader gets half of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(to_json(router, results), encoding="utf-8")
    os.replace(temporary, path)
