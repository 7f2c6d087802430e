# SPDX-License-Identifier: Apache-2.0
"""Runs the scenario's steps in one lab: open connections, act, wait for convergence, observe, count.

Owns the timing of a step. The actions and expectations are scenario.py's, the meaning of the figures report.py's.
"""

import time
from collections import Counter
from dataclasses import replace

from topology.demo.agent_client import tables_agree
from topology.demo.cluster import SEGMENT_INTERFACE, VIP, Cluster
from topology.demo.frame_capture import FrameCounts, capture
from topology.demo.report import ANYLB, Convergence, Spread, StepResult, spread_of, step_result
from topology.demo.router_watch import RouterWatch
from topology.demo.scenario import FOUR, SPREAD, Phase, Step
from topology.errors import LabError
from topology.traffic.controller import TrafficController
from topology.traffic.server import PORT

#: An action must converge within this, on a busy machine too. The slowest is a crash, at BGP's least hold time of 3 s.
CONVERGE_TIMEOUT_S = 120.0
#: Converged means as expected for so long: just after an action the router may not have learned of it yet.
STABLE_S = 0.5
#: Connections are observed at least so long after convergence.
OBSERVE_S = 2.0
#: A silent connection counts as broken after 15 s, so by then each has answered or is broken, on a busy machine too.
SETTLE_S = 60.0
OPEN_S = 60.0
POLL_S = 0.03
SPREAD_S = 2.0


class ScenarioRunner:
    """One lab, its traffic, and the history of its router's next hops."""

    def __init__(self, variant: str, cluster: Cluster, traffic: TrafficController, router: RouterWatch) -> None:
        self.variant = variant
        self.spread: Spread | None = None
        self._cluster = cluster
        self._traffic = traffic
        self._history = router.history

    def begin(self, fresh_per_s: float) -> None:
        """Wait until the first four servers serve, then start the steady stream of new connections."""
        start = Phase(lambda _cluster, _traffic: None, FOUR, FOUR, FOUR)
        self._run_phase(start)
        self._traffic.begin()
        self._traffic.fresh(fresh_per_s)

    def run_step(self, step: Step, connections: int) -> StepResult:
        """Run one step; raise LabError if the cluster does not reach the expected state."""
        for phase in step.prepare:
            self._run_phase(phase)
        self._open(connections)
        convergence = Convergence(time.monotonic(), None, None)
        if step is SPREAD:
            self.spread = self._measure_spread()
        on_stopped = self._cluster.client_ends(step.stopped) if step.stopped else frozenset()
        for number, phase in enumerate(step.phases):
            measured = self._run_phase(phase)
            if number == 0:
                convergence = measured
        self._settle()
        if step.next_hops_fixed and self._history.changes(convergence.action_at):
            raise LabError(f"lab {self._cluster.lab.name}: {step.name}: the router's next hops changed, but must not")
        lag_ms = round(1000 * self._traffic.progress().lag_s)
        held, attempts = self._traffic.report()
        # Answers name the server. If a node is stopped in front of it, what the node held is lost as well.
        held = [replace(one, owner=step.stopped or "") if one.source in on_stopped else one for one in held]
        self._traffic.close_held()
        self._traffic.begin()  # connections still under way count for the next step
        for phase in step.restore:
            self._run_phase(phase)
        return step_result(step.name, self.variant, held, attempts, convergence, step.stopped, step.idle, lag_ms)

    def _open(self, connections: int) -> None:
        self._traffic.open(connections)
        self._cluster.wait(
            f"{connections} connections to be open", lambda: self._traffic.progress().open >= connections, OPEN_S
        )
        now = time.monotonic()
        self._cluster.wait("an answer on every connection", lambda: self._traffic.progress(now).unsettled == 0, OPEN_S)

    def _run_phase(self, phase: Phase) -> Convergence:
        """Act, and wait until the router and, in anylb's lab, all tables converge; measure both from the action."""
        ecmp = self.variant != ANYLB
        nodes = phase.ecmp_next_hops if ecmp and phase.ecmp_next_hops is not None else phase.next_hops
        expected = frozenset(self._cluster.addresses[node] for node in nodes)
        before = self._cluster.bgp_session(phase.renewed_session) if phase.renewed_session else None
        at = time.monotonic()
        phase.act(self._cluster, self._traffic)
        acted_at = time.monotonic()
        agreed_at: float | None = None
        while True:
            if ecmp or tables_agree(
                map(self._cluster.service_status, sorted(phase.observers)), phase.takers, phase.gone
            ):
                agreed_at = agreed_at or time.monotonic()
            else:
                agreed_at = None
            router_ms = self._history.converged_after_ms(expected, at)
            renewed = not phase.renewed_session or self._cluster.bgp_session(phase.renewed_session) not in (
                None,
                before,
            )
            if agreed_at and router_ms is not None and renewed:
                convergence = Convergence(at, router_ms, None if ecmp else round(1000 * (agreed_at - at)))
                if time.monotonic() >= max(convergence.converged_at, acted_at) + STABLE_S:
                    return convergence
            if time.monotonic() > at + CONVERGE_TIMEOUT_S:
                raise LabError(self._unconverged(phase, nodes, renewed))
            time.sleep(POLL_S)

    def _unconverged(self, phase: Phase, nodes: frozenset[str], renewed: bool) -> str:
        current = sorted(self._cluster.names.get(hop, hop) for hop in self._history.current)
        parts = [f"next hops {'+'.join(current) or 'none'}, expected {'+'.join(sorted(nodes))}"]
        if not renewed:
            parts.append(f"{phase.renewed_session} has no new BGP session")
        if self.variant == ANYLB:
            parts.append(f"takers expected {'+'.join(sorted(phase.takers))}")
            for node in sorted(phase.observers):
                status = self._cluster.service_status(node)
                parts.append(
                    f"{node} has {'+'.join(sorted(status.takers))} ({status.digest[:8]})"
                    if status
                    else f"{node} is not ready"
                )
        return f"lab {self._cluster.lab.name}: not converged after {CONVERGE_TIMEOUT_S:g} s: {'; '.join(parts)}"

    def _settle(self) -> None:
        """Wait until every connection has answered a message sent from now on, or is broken."""
        now = time.monotonic()

        def settled() -> bool:
            progress = self._traffic.progress(now)
            return time.monotonic() >= now + OBSERVE_S and not progress.unsettled and not progress.pending

        self._cluster.wait("every connection to answer or to break", settled, SETTLE_S)

    def _measure_spread(self) -> Spread:
        before = self._counters()
        frames = FrameCounts(VIP, PORT, {node: self._cluster.mac(node) for node in self._cluster.addresses})
        capture(self._cluster.lab.nodes["router"].pid, SEGMENT_INTERFACE, frames, SPREAD_S)
        counters = {node: after - before[node] for node, after in self._counters().items()}
        return spread_of(self._traffic.report()[0], frames, counters)

    def _counters(self) -> dict[str, Counter[str]]:
        return {node: Counter(self._cluster.counters(node)) for node in sorted(FOUR)} if self.variant == ANYLB else {}
