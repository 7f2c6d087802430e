# SPDX-License-Identifier: Apache-2.0
"""What contradicts: two nodes with one address or one tag, prefixes that differ, nodes that only some name. Pure.

Owns the problems that the operator reads, with what to do; what a member is follows from none of it (view.py). A
contradiction becomes a problem when it lasts `MIN_DURATION_S`: routers propagate updates at their own pace, some only
after half a minute.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.address import tag_of
from agent.config.schema import Config
from agent.membership.obstacle import Obstacle, bounded
from agent.membership.received import SeenIdentity
from agent.model import Member
from agent.problem import Problem, ProblemLine

MIN_DURATION_S = 30.0

SAME_TAG = Problem(
    "{nodes} have the same tag, {tag} (the low 16 bits of the address)",
    "give all but one another address",
    "Markers in packets name a node by its tag, so packets of one may be taken for those of the other.",
)
OTHER_PREFIX = Problem(
    "{node} is announced as {prefix}, which is not its own in {identity_prefix}",
    "give all nodes the same bgp.identity_prefix",
    "The node is no member here, because its identity is not where this node's configuration expects it.",
)
NOT_ALLOWED = Problem(
    "{node} announces itself as a node of cluster {cluster} (received from {source}), but is in no network of "
    "members.allow",
    "add it there, or give its cluster another number",
    "It is ignored. If you do not know the node, someone uses your cluster's number: see SECURITY.md.",
)
TWO_NODES = Problem(
    "{node} is announced by two nodes, received from {sources}",
    "stop one of them, or give it another address (if there is only one, a router holds an old route: clear it there)",
    "Two identities have one address and different starts. A clone of a machine does this.",
)
OWN_ADDRESS = Problem(
    "this node's address {node} is announced by another node as well, received from {source}",
    "stop one of them, or give it another address (if there is no such node, the router holds an old route: clear it "
    "there)",
    "As above, and the other node has this one's address.",
)

Key = tuple[str, str]
"""The kind of a contradiction, and the node or tag that it concerns."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is compared. `seen`: the identities in live sessions; `members`: the view's; `own` and `own_start`: this
    node's address, and the start in the identity that it announces; `obstacles`: those of obstacle.py."""

    seen: Sequence[SeenIdentity]
    members: Sequence[Member]
    own: IPv4Address
    own_start: int
    obstacles: Sequence[Obstacle] = ()


@dataclass(frozen=True, slots=True)
class Conflicts:
    """The contradictions, and since when each is seen (CLOCK_MONOTONIC seconds)."""

    text: Mapping[Key, ProblemLine] = field(default_factory=dict)
    """The problem of each, as one line."""
    since: Mapping[Key, float] = field(default_factory=dict)
    observed: Observed | None = None
    """What they were found in: most of the time nothing has changed since."""

    def after(self, observed: Observed, config: Config, now: float) -> Conflicts:
        """Return the contradictions in what is observed now.

        The view's members count for the tags: of two nodes with one prefix, routers may advertise only one.
        """
        if observed == self.observed:
            return self
        seen, own = observed.seen, observed.own
        text = _shared_tags([*(one.address for one in seen), own, *(member.address for member in observed.members)])
        text |= _foreign_prefixes(seen, config) | _outsiders(seen, own, config)
        text |= _duplicates(seen, own, observed.own_start)
        text |= {(kind, about): line for kind, about, line in observed.obstacles}
        return Conflicts(text, {key: self.since.get(key, now) for key in text}, observed)

    def problems(self, now: float) -> tuple[ProblemLine, ...]:
        """Return those that last long enough, of each kind the first ones."""
        by_kind: dict[str, list[ProblemLine]] = {}
        for key, line in sorted(self.text.items()):
            if now - self.since[key] >= MIN_DURATION_S:
                by_kind.setdefault(key[0], []).append(line)
        return tuple(line for lines in by_kind.values() for line in bounded(lines))

    def next_at(self, now: float) -> float:
        """Return when the next one becomes a problem; infinity if none does."""
        due = [since + MIN_DURATION_S for since in self.since.values()]
        return min((at for at in due if at > now), default=float("inf"))


def _shared_tags(known: Iterable[IPv4Address]) -> dict[Key, ProblemLine]:
    """Markers and identity prefixes name a node by the low 16 bits of its address, so these must be unique."""
    numbers = set(map(int, known))
    tags = Tally(number & 0xFFFF for number in numbers)
    if len(tags) == len(numbers):
        return {}
    shared = {
        tag: sorted(IPv4Address(number) for number in numbers if number & 0xFFFF == tag)
        for tag, count in tags.items()
        if count > 1
    }
    return {
        ("tag", str(tag)): SAME_TAG.line(nodes=" and ".join(map(str, addresses)), tag=tag_of(addresses[0]))
        for tag, addresses in shared.items()
    }


def _foreign_prefixes(seen: Iterable[SeenIdentity], config: Config) -> dict[Key, ProblemLine]:
    return {
        ("prefix", f"{one.address} {one.prefix}"): OTHER_PREFIX.line(
            node=one.address, prefix=one.prefix, identity_prefix=config.bgp.identity_prefix
        )
        for one in seen
        if not one.own_prefix
    }


def _outsiders(seen: Iterable[SeenIdentity], own: IPv4Address, config: Config) -> dict[Key, ProblemLine]:
    return {
        ("allow", str(one.address)): NOT_ALLOWED.line(node=one.address, cluster=config.cluster, source=one.source)
        for one in seen
        if not one.allowed and one.address != own
    }


def _duplicates(seen: Iterable[SeenIdentity], own: IPv4Address, own_start: int) -> dict[Key, ProblemLine]:
    """Two identities under one address: those of two nodes, or an old one that some router still holds."""
    pairs = {(int(one.address), one.start) for one in seen}
    numbers = {number for number, _ in pairs}
    if len(numbers) == len(pairs) and int(own) not in numbers:
        return {}
    found = {}
    sources: dict[int, dict[int, SeenIdentity]] = {}
    for one in seen:
        sources.setdefault(int(one.address), {}).setdefault(one.start, one)
    for number, by_start in sources.items():
        if number != int(own) and len(by_start) > 1:
            received = " and ".join(sorted(one.source for one in by_start.values()))
            address = IPv4Address(number)
            found["address", str(address)] = TWO_NODES.line(node=address, sources=received)
    foreign = [one.source for start, one in sources.get(int(own), {}).items() if start != own_start]
    if foreign:
        found["address", str(own)] = OWN_ADDRESS.line(node=own, source=foreign[0])
    return found
