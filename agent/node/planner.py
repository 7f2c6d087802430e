# SPDX-License-Identifier: Apache-2.0
"""A node's plans, one after the other: the last one, what it was made from, and the memory that the next one needs.

Pure. Owns when there is a next plan; plan.py owns what is in it, agent.py the inputs and what follows from a plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from agent.address import Address, Network
from agent.model import Announcement, Member, Share
from agent.node.candidates import in_order
from agent.node.condition import own_shares
from agent.node.plan import Inputs, Memory, Plan, Tables, ThisNode, condition_of, own_member, plan


class Planner:
    """The plans of one node. `now` is CLOCK_MONOTONIC seconds, `wall` seconds since 1970."""

    def __init__(self, node: ThisNode, memory: Memory) -> None:
        """`memory`: what an agent before this one has left."""
        self._node = node
        self.memory = memory
        self.plan: Plan | None = None
        """The last one; None before the first."""
        self._made_from: Inputs | None = None

    def follow(self, inputs: Inputs, now: float, wall: float) -> Plan | None:
        """Make the next plan and return it, if an input has changed or the last plan's time is over; else None."""
        if self.plan is not None and inputs == self._made_from and now < self.plan.next_at:
            return None
        self.plan = plan(self._node, inputs, self.memory, now, wall)
        self._made_from, self.memory = inputs, self.plan.memory
        return self.plan

    def first_tables(self, inputs: Inputs, now: float, wall: float) -> Tables:
        """Return the tables to write before it is known whether this node forwards: as if it did. It makes no plan."""
        return plan(self._node, replace(inputs, forwarding=True), self.memory, now, wall).tables

    def end_hold_downs(self, vips: Collection[Address]) -> None:
        """End the hold-down of these VIPs. There is a next plan, whether or not an input changes."""
        self.memory = replace(self.memory, decisions=self.memory.decisions.without_hold_down(vips))
        self._made_from = None

    def shares(self, inputs: Inputs) -> dict[str, Share]:
        """Return this node's share of each service, by name, and of the sessions."""
        return own_shares(self._node.config, condition_of(self._node, inputs, self.memory))

    def first_shares(self, inputs: Inputs) -> dict[str, Share]:
        """Return what this node publishes before its first plan, by service: it goes on as an earlier agent did."""
        announced = {s.key for s in self._node.config.services if s.vip in self.memory.announced_once}
        shares = self._by_key(self.shares(inputs))
        return {key: replace(share, announced=key in announced) for key, share in shares.items()}

    def first_members(self, inputs: Inputs) -> tuple[Member, ...]:
        """Return all nodes that are known before the first plan, this one included, by address."""
        return in_order(inputs.members, own_member(self._node, self._by_key(self.shares(inputs))))

    def announcements(self) -> Mapping[Address, Announcement]:
        """Return the decision for each VIP; none before the first plan."""
        return self.plan.announcements if self.plan else {}

    def pools(self) -> Mapping[Network, Announcement]:
        """Return the decision for each pool of NAT; none before the first plan."""
        return self.plan.pools if self.plan else {}

    def _by_key(self, shares: Mapping[str, Share]) -> dict[str, Share]:
        return {self.memory.candidates.services[name]: share for name, share in shares.items()}
