# SPDX-License-Identifier: Apache-2.0
"""The candidates of each service: what its table is built from. Pure.

A cluster of 1,000 members and 50 services has 50,000 shares, of which a change touches those of one member; and members
mostly have the same state for all of their services, so that one table serves these (epoch_bank.py). So `Candidates`
is made from the one before: what is equal is the same object, across changes and across services.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from agent.config.schema import Config
from agent.model import NAT_KEY, NAT_TABLE, Candidate, Member, State


def candidate(service: str, member: Member) -> Candidate | None:
    """Return a member as a candidate for a service; None if it does not serve it or has left."""
    share = member.share(service)
    if share is None:
        return None
    return Candidate(member.address, share.weight, share.effective, share.state)


def candidates(service: str, members: Iterable[Member]) -> tuple[Candidate, ...]:
    """Return the members of one service, with the effective weights that they publish."""
    return tuple(found for member in members if (found := candidate(service, member)))


def takes_flows(candidate: Candidate) -> bool:
    """Whether a member of a service takes new connections."""
    return candidate.state is State.UP and candidate.effective > 0


def takers(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the members of a service that take new connections."""
    return [c for c in candidates if takes_flows(c)]


def in_order(others: tuple[Member, ...], own: Member) -> tuple[Member, ...]:
    """Return all members by address; `others` are in this order."""
    place = bisect.bisect(others, int(own.address), key=lambda member: int(member.address))
    return (*others[:place], own, *others[place:])


def table_keys(config: Config) -> dict[str, str]:
    """Return the key of each service by its name, and that of the table of sessions if there is one."""
    keys = {service.name: service.key for service in config.services}
    return keys if config.nat is None else {**keys, NAT_TABLE: NAT_KEY}


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """One member's candidates, for each service (None: not a member of it)."""

    member: Member
    candidates: tuple[Candidate | None, ...]
    even: bool
    """Whether they are one and the same object."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The candidates of all services among these members."""

    services: Mapping[str, str]
    """The key of each, by its name (`table_keys`)."""
    others: tuple[Member, ...] = ()
    """The members of the view, by address."""
    own: Member | None = None
    """This node as a member."""
    by_service: Mapping[str, tuple[Candidate, ...]] = field(default_factory=dict)
    """By service name, each in the order of addresses."""
    ends: Mapping[IPv4Address, IPv6Address | None] = field(default_factory=dict)
    """Each member's IPv6 end of tunnels."""
    unserved: frozenset[str] = frozenset()
    """The names of the services for which no member takes new connections."""
    _columns: Mapping[IPv4Address, _Column] = field(default_factory=dict)

    def after(self, others: tuple[Member, ...], own: Member) -> Candidates:
        """Return the candidates among these members, made of the ones before; those if the members are the same."""
        if others is self.others and own == self.own:
            return self
        members = in_order(others, own)
        columns = {member.address: self._column(member) for member in members}
        by_service = self._by_service(list(columns.values()))
        unchanged = bool(self.by_service) and all(one is self.by_service[name] for name, one in by_service.items())
        ends = {member.address: member.address6 for member in members}
        return Candidates(
            self.services,
            others,
            own,
            self.by_service if unchanged else by_service,
            self.ends if ends == self.ends else ends,
            self.unserved if unchanged else _unserved(by_service),
            columns,
        )

    def _by_service(self, columns: Sequence[_Column]) -> dict[str, tuple[Candidate, ...]]:
        """Return the candidates by service. Most members have equal candidates for all of their services, so services
        are compared by the other members only."""
        uneven = [column for column in columns if not column.even]
        known = list({id(one): one for one in self.by_service.values()}.values())
        made: dict[tuple[int, ...], tuple[Candidate, ...]] = {}
        found = {}
        for place, name in enumerate(self.services):
            kind = tuple(id(column.candidates[place]) for column in uneven)
            if kind not in made:
                row = tuple(one for column in columns if (one := column.candidates[place]) is not None)
                made[kind] = next((one for one in known if one == row), row)
                known.append(made[kind])
            found[name] = made[kind]
        return found

    def _column(self, member: Member) -> _Column:
        known = self._columns.get(member.address)
        if known is not None and (known.member is member or known.member == member):
            return known
        same: dict[Candidate, Candidate] = {one: one for one in known.candidates if one} if known else {}
        made: list[Candidate | None] = []
        for service in self.services.values():
            one = candidate(service, member)
            made.append(same.setdefault(one, one) if one else None)
        return _Column(member, tuple(made), len({id(one) for one in made}) == 1)


def _unserved(by_service: Mapping[str, tuple[Candidate, ...]]) -> frozenset[str]:
    distinct = {id(found): found for found in by_service.values()}
    served = {number for number, found in distinct.items() if any(map(takes_flows, found))}
    return frozenset(name for name, found in by_service.items() if id(found) not in served)
