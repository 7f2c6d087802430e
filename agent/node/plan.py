# SPDX-License-Identifier: Apache-2.0
"""From the configuration, this node's condition and its view to its shares, announcements and candidates. Pure.

map_writer.py and the BGP relay carry the decisions out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.address import Address
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.errors import AgentError
from agent.model import Announcement, Candidate, Member, Share, State


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of this node: what it observes of itself, and what its operator requested."""

    forwarding: bool
    """XDP is attached and the tables are written (always true where the data path is off by configuration)."""
    healthy: Mapping[str, bool]
    """By service name."""
    admin_state: State = State.UP
    """The state that the operator requested for the node: `up`, `draining` or `left`."""
    announced_once: frozenset[Address] = field(default_factory=frozenset)
    """VIPs that this node has announced since their services became healthy for the first time."""
    drained: frozenset[str] = field(default_factory=frozenset)
    """Services that the operator drained on this node, by name: it takes no new connections for them."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """The operator's effective weights where they are lower than the nominal ones, by service name."""
    has_ipv6: bool = True
    """Whether the node has an IPv6 address that can be the next hop of IPv6 VIPs."""


def own_share(service: ServiceConfig, condition: Condition) -> Share:
    """Return this node's share of a service, as its identity announces it."""
    state = condition.admin_state
    if state is State.UP and service.name in condition.drained:
        state = State.DRAINING
    effective = min(service.weight, condition.weights.get(service.name, service.weight))
    return Share(service.weight, effective if condition.healthy[service.name] and state is State.UP else 0, state)


def effective_weight(text: str, nominal: int) -> int:
    """Return the weight that an operator's `50`, `50%` or `nominal` means. AgentError: it is none of these, or more."""
    percent = text.endswith("%")
    number = text.removesuffix("%")
    if text == "nominal":
        return nominal
    if not (number.isascii() and number.isdigit()):
        raise AgentError(f"'{text}' is not a weight: give a number, a percentage such as 50%, or nominal")
    weight = -(-nominal * int(number) // 100) if percent else int(number)
    if weight > nominal:
        raise AgentError(
            f"{text} is more than the nominal weight, {nominal}: raise `weight` in the configuration, then reload"
        )
    return weight


def announcement(
    config: Config, vip: Address, condition: Condition, unserved: Collection[str] = frozenset()
) -> Announcement:
    """Return whether the node's condition allows a VIP to be announced; orders and hold-down come later (decide.py).

    `unserved`: the names of the services for which no member at all takes new connections.

    With the data path, a VIP that was announced once stays announced while the node can forward, even when its own
    service is unhealthy: only the weight becomes 0, and the router's ECMP set does not change. Without the data path
    (`xdp.mode: off`) the node cannot forward for an unhealthy service, so its VIP is withdrawn. When no member takes
    new connections any more, `when_unhealthy` decides, the same on every node.
    """
    if not config.node.announce:
        return Announcement(False, "node.announce is false: a member only")
    if condition.admin_state is not State.UP:
        return Announcement(False, f"the node is {condition.admin_state}")
    if not condition.forwarding:
        return Announcement(False, "the data path is not ready", fault=True)
    if f"ipv{vip.version}" not in config.bgp.carries:
        return Announcement(False, f"no BGP peer carries IPv{vip.version}; add it to a peer's families")
    if vip.version == 6 and not (condition.has_ipv6 or config.announce_of(vip).next_hop):
        return Announcement(False, "the node's interface has no IPv6 address to be the next hop")
    services = [service for service in config.services if service.vip == vip]
    sick = [s.name for s in services if not condition.healthy[s.name] or s.name in condition.drained]
    failing = not all(condition.healthy[s.name] for s in services)
    if sick and vip not in condition.announced_once:
        return Announcement(False, f"unhealthy: {', '.join(sick)}", fault=failing)
    if all(s.name in unserved for s in services):
        withdrawing = [s.name for s in services if s.when_unhealthy == "withdraw"]
        if withdrawing:
            return Announcement(False, f"no member is healthy: {', '.join(withdrawing)}", fault=failing)
        return Announcement(True, "no member is healthy: failing open")
    if sick and config.xdp.mode == "off":
        return Announcement(False, f"unhealthy: {', '.join(sick)}", fault=failing)
    return Announcement(True, f"forwarding for {', '.join(sick)}" if sick else "healthy")


def takers(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the members of a service that take new connections."""
    return [c for c in candidates if takes_flows(c)]


def takes_flows(candidate: Candidate) -> bool:
    """Whether a member of a service takes new connections."""
    return candidate.state is State.UP and candidate.effective > 0


def candidates(service_id: int, members: Iterable[Member]) -> tuple[Candidate, ...]:
    """Return the members of one service, with the effective weights that their identities announce."""
    return tuple(found for member in members if (found := candidate(service_id, member)))


def candidate(service_id: int, member: Member) -> Candidate | None:
    """Return a member as a candidate for a service; None if it does not serve it or has left."""
    share = member.share(service_id)
    if share is None:
        return None
    return Candidate(member.address, share.weight, share.effective, share.state)


class CandidateIndex:
    """The candidates of every service. Equal ones are one object: across passes, and across services.

    A cluster of 1,000 members and 50 services has 50,000 shares, of which a change touches those of one member; and
    members mostly have the same state for all of their services, so that one table serves these (epoch_bank.py).
    """

    def __init__(self, service_ids: Mapping[str, int]) -> None:
        """`service_ids` by service name."""
        self._ids = dict(service_ids)
        self._members: tuple[Member, ...] | None = None
        self._columns: dict[IPv4Address, tuple[Member, tuple[Candidate | None, ...]]] = {}
        """By member, its candidate for each service (None: not a member of it)."""
        self._found: dict[str, tuple[Candidate, ...]] = dict.fromkeys(self._ids, ())

    def of(self, members: tuple[Member, ...]) -> Mapping[str, tuple[Candidate, ...]]:
        """Return the candidates by service name, in the order of `members`."""
        if members is self._members:
            return self._found
        columns = {}
        for member in members:
            known = self._columns.get(member.address)
            if known is None or known[0] is not member:
                known = member, self._column(member, known)
            columns[member.address] = known
        self._members, self._columns = members, columns
        distinct = list({id(one): one for one in self._found.values()}.values())
        by_service = zip(*(column for _, column in columns.values()), strict=True) if columns else [()] * len(self._ids)
        found = {}
        for name, row in zip(self._ids, by_service, strict=True):
            here = tuple(one for one in row if one is not None)
            same = next((one for one in distinct if one == here), None)
            if same is None:
                distinct.append(here)
            found[name] = here if same is None else same
        self._found = found
        return found

    def _column(
        self, member: Member, known: tuple[Member, tuple[Candidate | None, ...]] | None
    ) -> tuple[Candidate | None, ...]:
        same: dict[Candidate, Candidate] = {one: one for one in known[1] if one} if known else {}
        made: list[Candidate | None] = []
        for number in self._ids.values():
            one = candidate(number, member)
            made.append(same.setdefault(one, one) if one else None)
        return tuple(made)
