# SPDX-License-Identifier: Apache-2.0
"""Plays the scenario's steps in one lab: traffic on, action, wait until all is right, watch on, count.

Owns the timing of a step. What is done and expected is scenario.py's, what the figures mean report.py's.
"""

import time
from collections import Counter

from topology.demo.cluster import SEGMENT_INTERFACE, VIP, Cluster, agree
from topology.demo.frame_capture import FrameTally, watch
from topology.demo.report import ANYLB, Moment, Row, Spread, row, spread_of
from topology.demo.router_watch import RouterWatch
from topology.demo.scenario import FOUR, SPREAD, Phase, Step
from topology.errors import LabError
from topology.traffic.client import TrafficClient
from topology.traffic.server import PORT

#: All must be right this long after an action; the slowest is a crash, at BGP's least hold time of 3 s.
RIGHT_S = 20.0
#: Right is what stayed right so long: right after an action the router may still have to learn of it.
STEADY_S = 0.5
#: Watched at least so long after all is right.
WATCH_S = 2.0
#: A silent connection counts as broken after 15 s, so by then each has answered or is broken.
SETTLE_S = 20.0
OPEN_S = 10.0
POLL_S = 0.03
SPREAD_S = 2.0


class Play:
    """One lab, its client, and the eyes on its router."""

    def __init__(self, kind: str, cluster: Cluster, client: TrafficClient, router: RouterWatch) -> None:
        self.kind = kind
        self.spread: Spread | None = None
        self._cluster = cluster
        self._client = client
        self._timeline = router.timeline

    def ready(self, fresh_per_s: float) -> None:
        """Wait until the first four servers serve, then start the steady stream of new connections."""
        start = Phase(lambda _cluster, _client: None, FOUR, FOUR, FOUR)
        self._phase(start)
        self._client.begin()
        self._client.fresh(fresh_per_s)

    def step(self, step: Step, connections: int) -> Row:
        """Play one step; raise LabError if the cluster does not become what the step expects."""
        self._open(connections)
        moment = Moment(time.monotonic(), None, None)
        if step is SPREAD:
            self.spread = self._spread()
        for number, phase in enumerate(step.phases):
            measured = self._phase(phase)
            if number == 0:
                moment = measured
        self._settle()
        if step.still and self._timeline.changes(moment.action_at):
            raise LabError(f"lab {self._cluster.lab.name}: {step.name}: the router's next hops changed, they must not")
        lag_ms = round(1000 * self._client.progress().lag_s)
        held, attempts = self._client.report()
        self._client.close_held()
        self._client.begin()  # what is still under way counts for the next step
        if step.restore:
            self._phase(step.restore)
        return row(step.name, self.kind, held, attempts, moment, step.stopped, step.idle, lag_ms)

    def _open(self, connections: int) -> None:
        self._client.open(connections)
        self._cluster.wait(
            f"{connections} connections to be open", lambda: self._client.progress().open >= connections, OPEN_S
        )
        now = time.monotonic()
        self._cluster.wait("an answer on every connection", lambda: self._client.progress(now).unsettled == 0, OPEN_S)

    def _phase(self, phase: Phase) -> Moment:
        """Act, and wait until the router and, in anylb's lab, all tables are right; measure both from the action."""
        plain = self.kind != ANYLB
        hops = phase.plain_hops if plain and phase.plain_hops is not None else phase.hops
        expected = frozenset(self._cluster.addresses[node] for node in hops)
        before = self._cluster.session(phase.renews) if phase.renews else None
        at = time.monotonic()
        phase.act(self._cluster, self._client)
        acted_at = time.monotonic()
        agreed_at: float | None = None
        while True:
            if plain or agree(map(self._cluster.view, sorted(phase.views)), phase.takers, phase.gone):
                agreed_at = agreed_at or time.monotonic()
            else:
                agreed_at = None
            router_ms = self._timeline.right_after_ms(expected, at)
            renewed = not phase.renews or self._cluster.session(phase.renews) not in (None, before)
            if agreed_at and router_ms is not None and renewed:
                moment = Moment(at, router_ms, None if plain else round(1000 * (agreed_at - at)))
                if time.monotonic() >= max(moment.right_at, acted_at) + STEADY_S:
                    return moment
            if time.monotonic() > at + RIGHT_S:
                raise LabError(self._complaint(phase, hops, renewed))
            time.sleep(POLL_S)

    def _complaint(self, phase: Phase, hops: frozenset[str], renewed: bool) -> str:
        present = sorted(self._cluster.names.get(hop, hop) for hop in self._timeline.now)
        said = [f"next hops {'+'.join(present) or 'none'}, expected {'+'.join(sorted(hops))}"]
        if not renewed:
            said.append(f"{phase.renews} has no new BGP session")
        if self.kind == ANYLB:
            said.append(f"takers expected {'+'.join(sorted(phase.takers))}")
            for node in sorted(phase.views):
                view = self._cluster.view(node)
                said.append(
                    f"{node} says {'+'.join(sorted(view.takers))} ({view.digest[:8]})"
                    if view
                    else f"{node} is not ready"
                )
        return f"lab {self._cluster.lab.name}: not right after {RIGHT_S:g} s: {'; '.join(said)}"

    def _settle(self) -> None:
        """Watch on until every connection has answered something sent from now on, or is broken."""
        now = time.monotonic()

        def settled() -> bool:
            progress = self._client.progress(now)
            return time.monotonic() >= now + WATCH_S and not progress.unsettled and not progress.pending

        self._cluster.wait("every connection to answer or to break", settled, SETTLE_S)

    def _spread(self) -> Spread:
        before = self._counters()
        seen = FrameTally(VIP, PORT, {node: self._cluster.mac(node) for node in self._cluster.addresses})
        watch(self._cluster.lab.nodes["router"].pid, SEGMENT_INTERFACE, seen, SPREAD_S)
        counters = {node: after - before[node] for node, after in self._counters().items()}
        return spread_of(self._client.report()[0], seen, counters)

    def _counters(self) -> dict[str, Counter[str]]:
        return {node: Counter(self._cluster.counters(node)) for node in sorted(FOUR)} if self.kind == ANYLB else {}
