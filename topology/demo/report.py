# SPDX-License-Identifier: Apache-2.0
"""From connections to the demo's rows, and from rows to the verdict. Pure; demo.json's format is here.

What is expected (the demo fails otherwise):

- anylb: no connection breaks in any step, and no new connection fails; except, where a server was stopped or crashed
  without a word, in the first moments, that is until the others have noticed.
- plain ECMP, the negative control: at least a tenth of the connections, those on a crashed server left out, breaks in
  each of add, drain, return and crash. If it does not, the traffic proves nothing.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from topology.demo.frame_capture import FrameTally
from topology.traffic.client import AttemptReport, HeldReport

ANYLB = "anylb"
ECMP = "ecmp"
NOT_IN_JSON = ("failed_late", "taken_late", "lag_ms")
#: The steps in which plain ECMP must break connections, and the share of them.
CONTROL_STEPS = ("add", "drain", "return", "crash")
CONTROL_SHARE = 0.1
#: An attempt that the stop of its server caught under way began at most this long before it. Usual ones take 2 ms.
UNDER_WAY_S = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One step in one lab.

    Not in demo.json: `failed_late`, the failures that nothing excuses, `taken_late`, the new connections that a server
    took which should have none any more, and `lag_ms`, how late the client itself was.
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
class Moment:
    """When a step's action was (CLOCK_MONOTONIC seconds), and how long after it all was right again."""

    action_at: float
    router_ms: int | None
    agree_ms: int | None

    @property
    def right_at(self) -> float:
        """From here on the router and all tables were right."""
        return self.action_at + max(self.router_ms or 0, self.agree_ms or 0) / 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the connections of a lab are: by the router's choice, and by who answers."""

    ingress: Counter[str]
    owner: Counter[str]
    direct: int
    astray: int
    missed: int
    counters: dict[str, Counter[str]] = field(default_factory=dict)


def spread_of(held: list[HeldReport], seen: FrameTally, counters: dict[str, Counter[str]]) -> Spread:
    """Join what the client knows of its connections with what the segment's frames say."""
    ingress: Counter[str] = Counter()
    for one in held:
        ingress["+".join(sorted(seen.ingress.get(one.source, {"unseen"})))] += 1
    owner = Counter(one.owner for one in held)
    return Spread(ingress, owner, seen.direct, seen.astray, seen.missed, counters)


def row(
    step: str,
    lab: str,
    held: Sequence[HeldReport],
    attempts: Sequence[AttemptReport],
    moment: Moment,
    stopped: str | None = None,
    idle: str | None = None,
    lag_ms: int = 0,
) -> Row:
    """Count a step's connections.

    `stopped` names the server that was stopped or crashed, `idle` the one that must take no new connections once all
    is right.

    A new connection may fail only if a server was stopped and the attempt began before all was right again: from then
    on its first SYN reaches a server that takes it. One begun earlier gets TCP's further SYNs too, but may end by a
    reset of the dying server or run out of its 5 s.
    """
    elsewhere = [one for one in held if one.owner != stopped]
    failed = [one for one in attempts if one.outcome not in ("", "ok")]
    excused_from = moment.action_at - UNDER_WAY_S
    late = [one for one in failed if not (stopped and excused_from <= one.started_at <= moment.right_at)]
    return Row(
        step=step,
        lab=lab,
        connections=len(held),
        broken=sum(one.state == "broken" for one in elsewhere),
        on_stopped=len(held) - len(elsewhere),
        failed_new=len(failed),
        failed_late=len(late),
        taken_late=sum(one.owner == idle and one.started_at > moment.right_at for one in attempts) if idle else 0,
        longest_silence_ms=round(1000 * max((one.silence_s for one in elsewhere), default=0.0)),
        router_ms=moment.router_ms,
        agree_ms=moment.agree_ms,
        lag_ms=lag_ms,
    )


def faults(rows: Sequence[Row]) -> list[str]:
    """Compare the rows with what is expected; each line says what is not so. Empty: all is well."""
    found = []
    for one in rows:
        if one.lab == ANYLB and one.broken:
            found.append(f"{one.step}: anylb broke {one.broken} of {one.connections} connections, expected none")
        if one.lab == ANYLB and one.failed_late:
            found.append(f"{one.step}: anylb failed {one.failed_late} new connections without excuse, expected none")
        if one.lab == ANYLB and one.taken_late:
            found.append(f"{one.step}: a server took {one.taken_late} new connections that it should not have")
        elsewhere = one.connections - one.on_stopped
        if one.lab == ECMP and one.step in CONTROL_STEPS and one.broken < CONTROL_SHARE * elsewhere:
            found.append(
                f"{one.step}: plain ECMP broke only {one.broken} of {elsewhere} connections, "
                f"expected {CONTROL_SHARE:.0%} at least: the traffic proves nothing"
            )
    return found


def spread_faults(lab: str, spread: Spread) -> list[str]:
    """Compare where the connections are with what is expected: straight answers, and with anylb shared work.

    Without forwarding the lab would prove nothing: with four nodes the router's choice is the owner one time in four.
    """
    found = []
    if spread.astray or not spread.direct:
        found.append(f"spread: {lab}: {spread.astray} answers did not come straight, {spread.direct} did")
    if lab == ANYLB and not all(counter["forward_first"] for counter in spread.counters.values()):
        found.append("spread: anylb: a node forwarded nothing to the owners")
    return found


def to_json(router: str, rows: Sequence[Row]) -> str:
    """Render demo.json."""
    steps = [{name: value for name, value in asdict(one).items() if name not in NOT_IN_JSON} for one in rows]
    return json.dumps({"router": router, "steps": steps}, indent=2) + "\n"


def write_json(path: Path, router: str, rows: Sequence[Row]) -> None:
    """Write demo.json aside and rename it, so that nobody reads half of one."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(to_json(router, rows), encoding="utf-8")
    os.replace(aside, path)
