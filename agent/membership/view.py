# SPDX-License-Identifier: Apache-2.0
"""What this node believes of all other nodes: the view. Pure; `now` is CLOCK_MONOTONIC seconds.

A node is believed about itself, and about nothing else. BGP or the configuration names it (received.py), its data path
answers (liveness/), its agent publishes what it serves (channel/). The rules:

1. A candidate becomes a member when its data path answers and its agent publishes, in the same boot, what it serves.
   One that never answered takes no place, whatever routers advertise.
2. A member that is silent is passed over by packets from the next one on; that is a flag of its node entry, and no row
   changes (`silent_since`).
3. After `OWNS_S` of silence it is `lost`: it owns no row, but comes after the chains of its rows, for `FORGET_S`. It
   owns on while a member that this node reaches still reaches it (`unreachable`): where the fault is one path, tables
   stay equal.
4. A member whose agent is silent (its heartbeat does not advance), or whose data path is not ready, gets no new flows.
   Its places stay: the data path lives on without the agent.
5. Another boot than that of its state: its connections are gone, so it has no place until its agent publishes again.
6. Only its own `left` removes a member at once. That an identity is withdrawn, or a BGP session ends, changes nothing.
7. The first table waits (start.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from math import inf

from agent.channel.state import NodeState
from agent.liveness.question import Liveness
from agent.membership.observations import Observations
from agent.membership.reachability import NEW, OWNS_S, Reachability, reachability_of
from agent.membership.received import Named
from agent.membership.start import ALONE_S, START_S, is_complete, waits_alone
from agent.model import NAT_KEY, Member, Share, State, without_new_flows

FORGET_S = 600.0

_Kind = tuple[int, tuple[int, int, State] | None]

_BACK = "answers again"
_SILENT = "does not answer"
_REACHED_ELSEWHERE = "does not answer this node, but others"


class View:
    """The other nodes. Feed it with `observe`, read `members`."""

    def __init__(self, saved: Iterable[Member] = ()) -> None:
        """`saved` are the members that an earlier run of this agent saved."""
        self._members: dict[IPv4Address, Member] = {member.address: member for member in saved}
        self._started_at: float | None = None
        self._observed = Observations()
        self._inputs: dict[IPv4Address, tuple[object, ...]] = {}
        """What each node was last judged by."""
        self._shares: dict[_Kind, tuple[object, Mapping[str, Share]]] = {}
        """The shares of equal states, each with the object that its kind names: of 1,000 members most are equal."""
        self._reachability_known: Mapping[IPv4Address, Reachability] | None = None
        self._complete = False
        self._doubted: Mapping[IPv4Address, float] = {}
        self.members: tuple[Member, ...] = self._in_order()
        """All members but this node itself, by address; the same object as long as none changes."""
        self.next_at = -inf
        """When time alone may change the view; at once before the first `observe`."""

    def observe(self, observed: Observations, now: float) -> None:
        """Bring the view to what is observed."""
        if self._started_at is None:
            self._started_at = now
            self._members = {address: _until(now, member) for address, member in self._members.items()}
        if observed == self._observed and now < self.next_at:
            return
        self._observed, self._reachability_known = observed, None
        for address in observed.named.keys() | self._members.keys():
            if self._inputs_of(address) != self._inputs.get(address):
                self._judge(address, now)
        # Which nodes the others reach counts as of now: the last one that reached a silent member may have left.
        self._reachability_known = None
        for address in [one.address for one in self._members.values() if one.silent_since is not None]:
            self._judge(address, now)
        for address in self._inputs.keys() - observed.named.keys() - self._members.keys():
            del self._inputs[address]
        self._doubted = self._doubted_by_others(now)
        members = self._in_order()
        self.members = self.members if members == self.members else members
        self._complete = self._complete or is_complete(observed, self._members, now - self._started_at)
        self.next_at = self._next_change(now)

    def is_complete(self) -> bool:
        """Whether the view is whole, so that a first table can be made of it."""
        return self._complete

    def waits_alone(self, now: float) -> bool:
        """Whether a first table waits because routers name nodes that do not answer, and no other is there."""
        if self._complete or self._started_at is None or self._members:
            return False
        waited_s = now - self._started_at
        return waited_s >= START_S and waits_alone(self._observed, waited_s)

    @property
    def silent(self) -> Mapping[IPv4Address, float]:
        """The members that packets pass over, and since when."""
        return {m.address: m.silent_since for m in self.members if m.silent_since is not None}

    @property
    def doubted(self) -> Mapping[IPv4Address, float]:
        """The members that answer this node, but not some other, and since when: packets may be led past them."""
        return self._doubted

    @property
    def unreachable(self) -> tuple[IPv4Address, ...]:
        """The members that do not answer this node, for the state that it publishes."""
        return tuple(self.silent)

    def _inputs_of(self, address: IPv4Address) -> tuple[Named | None, NodeState | None, Liveness | None]:
        observed = self._observed
        return observed.named.get(address), observed.states.get(address), observed.liveness.get(address)

    def _judge(self, address: IPv4Address, now: float) -> None:
        """Bring one node to what is observed."""
        before, inputs = self._members.get(address), self._inputs_of(address)
        self._inputs[address] = inputs
        after = self._next(address, before, *inputs, now)
        if after is None:
            self._members.pop(address, None)
        elif after != before:
            self._members[address] = after

    def _in_order(self) -> tuple[Member, ...]:
        return tuple(self._members[address] for address in sorted(self._members, key=int))

    def _next(
        self,
        address: IPv4Address,
        member: Member | None,
        named: Named | None,
        state: NodeState | None,
        liveness: Liveness | None,
        now: float,
    ) -> Member | None:
        """Return what a node is now; None if it is no member."""
        answers = liveness.answers if liveness is not None else None
        if member is None:
            if not answers or liveness is None or state is None or state.boot != liveness.boot or _has_left(state):
                return None
            return self._new(address, state, liveness, named, now)
        if answers and liveness is not None and liveness.boot not in (member.boot, state.boot if state else 0):
            return None
        if state is not None and (answers or state.boot == member.boot):
            if _has_left(state):
                return None
            member = self._updated(member, state, liveness, now)
        elif answers:
            member = replace(member, shares=_effective(member.shares, liveness))
        if named is not None and named.address6 != member.address6:
            member = replace(member, address6=named.address6)
        if answers and (member.lost or member.silent_since is not None):
            return replace(member, silent_since=None, lost=False, since=now, why=_BACK)
        if answers is False:
            return self._silent(member, liveness, now)
        return member

    def _new(
        self, address: IPv4Address, state: NodeState, liveness: Liveness, named: Named | None, now: float
    ) -> Member:
        shares = _effective(self._shares_of(state), liveness)
        address6 = named.address6 if named else None
        return Member(address, state.epochs, shares, False, now, NEW, address6, state.boot, state.version)

    def _updated(self, member: Member, state: NodeState, liveness: Liveness | None, now: float) -> Member:
        """Return a member after what it publishes."""
        shares = _effective(self._shares_of(state), liveness)
        after = replace(member, epochs=state.epochs, shares=shares, boot=state.boot, version=state.version)
        change = _difference(member, after)
        return replace(after, changed=now, change=change) if change else after

    def _shares_of(self, state: NodeState) -> Mapping[str, Share]:
        key = _kind(state)
        known = self._shares.get(key)
        if known is None:
            shares = {
                str(service): Share(one.weight, one.effective, one.state, one.announced)
                for service, one in state.shares.items()
            }
            if state.nat is not None:
                shares[NAT_KEY] = Share(state.nat.weight, state.nat.effective, state.nat.state, announced=False)
            if len(self._shares) >= 2 * len(self._observed.states) + 16:
                present = {_kind(one) for one in self._observed.states.values()}
                self._shares = {kind: one for kind, one in self._shares.items() if kind in present}
            self._shares[key] = known = state.shares, shares
        return known[1]

    def _silent(self, member: Member, liveness: Liveness | None, now: float) -> Member | None:
        since = member.silent_since
        if since is None:
            since = liveness.since if liveness is not None else now
            member = replace(member, silent_since=since, since=now, why=_SILENT)
        if now - since >= FORGET_S:
            return None
        if not member.lost and now - since >= OWNS_S:
            if not self._is_reached_elsewhere(member.address):
                return replace(member, lost=True, since=now)
            if member.why != _REACHED_ELSEWHERE:
                return replace(member, since=now, why=_REACHED_ELSEWHERE)
        return member

    def _is_reached_elsewhere(self, address: IPv4Address) -> bool:
        """Whether a member that this node reaches reports that it reaches that one: it can only keep places."""
        since = self._silence_of(address)
        return any(one.reaches(int(address), since) for one in self._reachability().values())

    def reaches(self, other: IPv4Address, address: IPv4Address) -> bool:
        """Whether a member that this node reaches reports that it reaches another one."""
        reachability = self._reachability().get(other)
        return reachability is not None and reachability.reaches(int(address), self._silence_of(address))

    def _silence_of(self, address: IPv4Address) -> float:
        """Return since when a node does not answer this node, or some other; infinity if it answers all."""
        member = self._members.get(address)
        silent_since = member.silent_since if member is not None else None
        return self._doubted.get(address, inf) if silent_since is None else silent_since

    def _reachability(self) -> Mapping[IPv4Address, Reachability]:
        if self._reachability_known is None:
            self._reachability_known = reachability_of(self._members, self._observed.liveness, self._observed.states)
        return self._reachability_known

    def _doubted_by_others(self, now: float) -> Mapping[IPv4Address, float]:
        # Most members list the same ones, and states share equal lists (channel/state.py): each list is read once.
        lists = {
            id(state.unreachable): state.unreachable
            for other, state in self._observed.states.items()
            if state.unreachable and (one := self._observed.liveness.get(other)) is not None and one.answers
        }
        found = {
            address: self._doubted.get(address, now)
            for unreachable in lists.values()
            for address in unreachable
            if (member := self._members.get(address)) is not None and member.silent_since is None
        }
        return found if found != self._doubted else self._doubted

    def _next_change(self, now: float) -> float:
        due: list[float] = []
        if not self._complete and self._started_at is not None:
            due = [self._started_at + START_S, self._started_at + ALONE_S]
        for since in self.silent.values():
            due += [at for at in (since + OWNS_S, since + FORGET_S) if at > now][:1]
        return min((at for at in due if at > now), default=inf)


def _until(now: float, member: Member) -> Member:
    """Return a member that an earlier agent saved, with no silence that begins later: its file may be damaged."""
    since = member.silent_since
    return member if since is None or since <= now else replace(member, silent_since=now)


def _effective(shares: Mapping[str, Share], liveness: Liveness | None) -> Mapping[str, Share]:
    """Return shares that take no new flows if the node's agent is silent, or its data path is not ready."""
    if liveness is None or not liveness.answers or (liveness.ready and liveness.agent_lives):
        return shares
    return {service: without_new_flows(share) for service, share in shares.items()}


def _difference(before: Member, after: Member) -> str:
    """Return how a member has changed by its own state, in a few words; empty if it has not."""
    if before.boot != after.boot:
        return "it booted"
    if before.state is not after.state and not before.lost:
        return f"its state changed to {after.state}"
    if before.epochs != after.epochs:
        return "it supports other epochs"
    for attribute, text in (
        ("weight", "nominal weight"),
        ("effective", "effective weight"),
        ("announced", "number of VIPs"),
    ):
        was, now = (sum(getattr(share, attribute) for share in m.shares.values()) for m in (before, after))
        if was != now:
            return f"its {text} {'increased' if now > was else 'decreased'}"
    return "its shares changed" if before.shares != after.shares else ""


def _kind(state: NodeState) -> _Kind:
    """Return what is equal for equal shares: `decode` gives equal services the same object."""
    nat = state.nat
    return id(state.shares), (nat.weight, nat.effective, nat.state) if nat else None


def _has_left(state: NodeState) -> bool:
    return bool(state.shares) and all(share.state is State.LEFT for share in state.shares.values())
