# SPDX-License-Identifier: Apache-2.0
"""What this node publishes of itself: its shares, by the channel, and what its data path answers echoes with."""

from __future__ import annotations

from collections.abc import Mapping

from agent.membership.agreement import Digests
from agent.model import Share, without_new_flows
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.node.plan import Plan


class Publisher:
    """Publishes until the node leaves. `forwarder` is None without a data path."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._stopping = False
        self.digests = Digests(0, 0)
        """The last ones that were published."""

    def publish(self, plan: Plan, ready: bool, forwarder: Forwarder | None) -> None:
        """Publish the plan's shares; a heartbeat too. `ready`: whether this node forwards."""
        if self._stopping:
            return
        ready = ready and not self._membership.isolated
        self._membership.publish(plan.published, ready)
        digests = Digests(plan.memory.cluster.digest, forwarder.tables_digest if forwarder else 0)
        self.digests = digests
        self._membership.compare(digests)
        if forwarder is not None:
            forwarder.answer_with(self._membership.boot, digests, ready)

    def publish_first(self, shares: Mapping[str, Share], forwards: bool, forwarder: Forwarder | None) -> None:
        """Publish what this node serves before it knows the others: each waits until all have done so."""
        if self._stopping:
            return
        self._membership.publish(shares, forwards)
        if forwarder is not None:
            forwarder.answer_with(self._membership.boot, Digests(0, forwarder.tables_digest), forwards)

    def leave(self, plan: Plan | None, ready: bool) -> None:
        """Publish, as the last thing, that this node takes no new flows."""
        self._stopping = True
        if plan is not None:
            last = {service: without_new_flows(share) for service, share in plan.published.items()}
            self._membership.publish(last, ready)
