# SPDX-License-Identifier: Apache-2.0
"""The relay's end of this node: sends what the plan wants announced, knows what the routers have of it. I/O only."""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from agent.address import Announced
from agent.announcing import routes
from agent.announcing.export_monitor import ExportMonitor
from agent.announcing.export_status import StatusEntry, export_statuses
from agent.errors import AgentError
from agent.node.plan import Plan, ThisNode
from bgp.exabgp.config import USER
from bgp.relay.client import RelayClient
from bgp.relay.protocol import DesiredRoutes, Snapshot

STOP_S = 2.0


class Announcer:
    """The routes of one node: wanted by its plans, carried out by the relay."""

    def __init__(
        self, node: ThisNode, socket: Path, exports: Iterable[StatusEntry], on_change: Callable[[], None]
    ) -> None:
        """`exports` are the export statuses that an earlier agent left; `on_change` is called for each report.

        Raises AgentError if there is no user bgp.user.
        """
        config = node.config
        self.relay = RelayClient(socket, _relay_uids(config.bgp.user), lambda _: on_change())
        self.exports = ExportMonitor(tuple(exports))
        self._config = config
        self._plan: Plan | None = None
        live, fallback = routes.desired_routes(config, node.address, node.address6, node.next_hop6, node.start, {})
        self._identity = DesiredRoutes(tuple(live), tuple(fallback))
        self._stopping = False
        self._observed: tuple[Plan | None, Snapshot | None] = None, None

    @property
    def advertised(self) -> frozenset[str]:
        """The prefixes that some router has from this node, as far as ExaBGP reports."""
        snapshot = self.relay.snapshot if self.relay.connected else None
        return snapshot.advertised if snapshot is not None and not snapshot.silent else frozenset()

    def withdrawn(self, ones: Collection[Announced]) -> bool:
        """Return whether the relay confirms that these VIPs and pools are in no peer's adj-rib-out."""
        if not self.relay.connected or self.relay.snapshot is None:
            return False
        prefixes = {routes.prefix_of(one) for one in ones}
        return not any(prefixes & peer.announced for peer in self.relay.snapshot.peers)

    def want(self, plan: Plan) -> None:
        """Take the plan whose routes `send` sends from now on."""
        self._plan = plan

    def send(self) -> None:
        """Send the relay all desired routes. This is a heartbeat too.

        Until there is a plan that is the identity alone, since the others must know a node before they accept its
        datagrams; but nothing while routers have what an earlier agent announced.
        """
        if self._stopping or (self._plan is None and not self.withdrawn(self._config.announced)):
            return
        desired = self._plan.desired if self._plan else self._identity
        self.relay.send_desired(desired.desired, desired.fallback, desired.announcers)

    def observe_exports(self) -> bool:
        """Compare what is wanted with what the routers have; return whether anything may have changed."""
        plan, snapshot = self._plan, self.relay.snapshot if self.relay.connected else None
        if plan is None or (self._observed[0] is plan and self._observed[1] is snapshot):
            return False
        self._observed = plan, snapshot
        by_prefix = {route.prefix: route for route in plan.desired.desired}
        self.exports.observe(export_statuses(self._config, plan.announced, by_prefix, snapshot), time.time())
        return True

    async def leave(self) -> None:
        """Leave the routes to the relay, and wait until it has withdrawn or kept the VIPs, STOP_S at most.

        It withdraws them, unless most of the others stop as well (bgp/relay/quorum.py). The data path and the VIPs on
        lo stay, because routers need time to converge.
        """
        self._stopping = True
        self.relay.send_stop()
        deadline = time.monotonic() + STOP_S
        # A relay that connects or restarts right now receives it within this time too.
        while time.monotonic() < deadline and not self._left():
            await asyncio.sleep(0.02)

    def _left(self) -> bool:
        """Return whether the relay has decided about VIPs and pools, and withdrawn those that it does not keep."""
        snapshot = self.relay.snapshot
        return snapshot is not None and snapshot.deadman and (snapshot.held or self.withdrawn(self._config.announced))


def _relay_uids(user: str) -> set[int]:
    """Return who may serve the relay's socket: the BGP user, and root. Raises AgentError if there is no such user."""
    try:
        return {0, pwd.getpwnam(user).pw_uid}
    except KeyError:
        step = f"the package and `./setup.sh agent` create {USER}, or name another"
        raise AgentError(f"bgp.user: there is no user {user} here; {step}") from None
