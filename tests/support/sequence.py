# SPDX-License-Identifier: Apache-2.0
"""What a sequence of events does to a client: connections that it holds, and new ones all the while."""

from __future__ import annotations

import time
from dataclasses import dataclass

from support.cluster_lab import ClusterLab
from support.waiting import wait_for

from topology.traffic.controller import TrafficController

FRESH_PER_S = 30.0
SETTLE_S = 60.0
NEVER_S = "3600"
"""A connection whose owner is away for a minute is silent, not broken: the client waits."""
RETRANSMISSIONS = "net.ipv4.tcp_rto_max_ms=1000", "net.ipv4.tcp_retries2=200"
"""Each second, for minutes (Linux 6.15; before, TCP's back-off makes the client slower to notice that all is well)."""


def patient_traffic(cluster: ClusterLab) -> TrafficController:
    """Start a client that calls no connection broken for its silence."""
    for node in ("client", *cluster.addresses):
        cluster.lab.exec(node, ["sysctl", "-w", *RETRANSMISSIONS], check=False)
    return cluster.start_traffic("--silence", NEVER_S)


@dataclass(frozen=True)
class Outcome:
    """What broke. `hung` gave no answer at the end; `healed_s` after the fault, the last new connection began that
    failed."""

    name: str
    held: int
    reset: int
    hung: int
    new: int
    failed: int
    healed_s: float
    silence_s: float
    details: str
    """How many broke for which reason at which owner, and when after the fault."""

    @property
    def broken(self) -> int:
        return self.reset + self.hung

    def __str__(self) -> str:
        return (
            f"{self.name:44} | {self.broken} of {self.held} ({self.hung} hang) | {self.failed} of {self.new} new "
            f"| healed {self.healed_s:.1f} s | silent up to {self.silence_s:.1f} s"
        )


class Sequence:
    """One sequence, from the first connection to its outcome."""

    def __init__(self, cluster: ClusterLab, traffic: TrafficController, name: str) -> None:
        self._cluster, self._traffic, self._name = cluster, traffic, name
        self.fault_at = 0.0
        """When the fault happened (CLOCK_MONOTONIC seconds)."""
        traffic.fresh(0)
        traffic.close_held()
        wait_for(lambda: not traffic.progress(time.monotonic()).pending, "earlier connections to end")
        traffic.begin()
        traffic.fresh(FRESH_PER_S)

    def open(self, count: int) -> None:
        """Hold so many more."""
        wanted = self._traffic.progress().open + count
        self._traffic.open(count)
        wait_for(lambda: self._traffic.progress().open >= wanted or not self._opening(), "connections to be open")

    def _opening(self) -> bool:
        return self._traffic.progress().opening > 0

    def fault(self) -> None:
        """Note that the fault happens now."""
        self.fault_at = time.monotonic()

    def forget(self, dead: str) -> None:
        """Close the connections that died with their owner."""
        self._traffic.close_held(dead)

    def outcome(self) -> Outcome:
        """Return what broke, once every connection has answered again, or has not within `SETTLE_S`; close them all."""
        now = time.monotonic()
        hung = self._traffic.progress(now).unsettled
        while hung and time.monotonic() < now + SETTLE_S:
            time.sleep(0.1)
            hung = self._traffic.progress(now).unsettled
        self._traffic.fresh(0)
        wait_for(lambda: not self._traffic.progress(time.monotonic()).pending, "new connections to end")
        held, attempts = self._traffic.report()
        self._traffic.close_held()  # else they send while all come back, which takes a quarter of a CPU
        alive = [one for one in held if one.state != "closed"]
        failed = [one for one in attempts if one.outcome not in ("", "ok")]
        made = Outcome(
            self._name,
            held=len(alive),
            reset=sum(one.state == "broken" for one in alive),
            hung=hung,
            new=len(attempts),
            failed=len(failed),
            healed_s=max((one.started_at - self.fault_at for one in failed), default=0.0),
            silence_s=max((one.silence_s for one in alive), default=0.0),
            details=str(
                sorted(
                    (one.owner, one.reason, round(one.ended_at - self.fault_at, 1), one.source)
                    for one in alive
                    if one.state == "broken"
                )
            ),
        )
        print(made)
        return made
