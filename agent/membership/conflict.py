# SPDX-License-Identifier: Apache-2.0
"""Identities that contradict each other: two nodes with one address or one tag, prefixes that differ. Pure.

Owns the problems that the operator reads, with what to do; which identity is believed meanwhile is peer_table.py's. A
contradiction becomes a problem when it lasts `MIN_DURATION_S`: routers propagate updates at their own pace, some only
after half a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address

from agent.address import tag_of
from agent.config.schema import Config
from agent.membership.identity import node_prefix
from agent.membership.received import SeenIdentity

MIN_DURATION_S = 30.0


class Conflicts:
    """The contradictions, and since when each is seen."""

    def __init__(self, config: Config, own: IPv4Address) -> None:
        self._config, self._own = config, own
        self._since: dict[tuple[str, str], float] = {}
        self._compared: tuple[object, ...] | None = None
        """What `_found` was made of: most of the time nothing has changed since."""
        self._found: dict[tuple[str, str], str] = {}
        self.problems: tuple[str, ...] = ()
        """Those that last long enough, one line each."""

    def observe(
        self, seen: Sequence[SeenIdentity], members: Sequence[IPv4Address], own_versions: Collection[int], now: float
    ) -> None:
        """Compare all identities that live sessions carry. `own_versions`: those that this node announces.

        The view's `members` count for the tags: of two nodes with one prefix, routers may advertise only one.
        """
        compared = seen, members, own_versions
        if compared != self._compared:
            found = self._shared_tags({one.address for one in seen} | {self._own, *members})
            found |= self._foreign_prefixes(seen) | self._outsiders(seen) | self._duplicates(seen, own_versions)
            self._compared, self._found = compared, found
        found = self._found
        self._since = {key: self._since.get(key, now) for key in found}
        self.problems = tuple(text for key, text in sorted(found.items()) if now - self._since[key] >= MIN_DURATION_S)

    def _shared_tags(self, known: Iterable[IPv4Address]) -> dict[tuple[str, str], str]:
        """Markers and identity prefixes name a node by the low 16 bits of its address, so these must be unique."""
        by_tag: dict[int, set[IPv4Address]] = {}
        for address in known:
            by_tag.setdefault(tag_of(address), set()).add(address)
        return {
            ("tag", str(tag)): f"{' and '.join(map(str, sorted(addresses)))} have the same tag, {tag} (the low 16 bits "
            "of the address): give all but one another address"
            for tag, addresses in by_tag.items()
            if len(addresses) > 1
        }

    def _foreign_prefixes(self, seen: Iterable[SeenIdentity]) -> dict[tuple[str, str], str]:
        found = {}
        for one in seen:
            if one.prefix != node_prefix(self._config, one.address):
                found["prefix", f"{one.address} {one.prefix}"] = (
                    f"{one.address} is announced as {one.prefix}, which is not its own in "
                    f"{self._config.bgp.identity_prefix}: give all nodes the same bgp.identity_prefix"
                )
        return found

    def _outsiders(self, seen: Iterable[SeenIdentity]) -> dict[tuple[str, str], str]:
        found, allowed = {}, self._config.members.allow
        for one in seen:
            if one.address != self._own and not any(one.address in network for network in allowed):
                found["allow", str(one.address)] = (
                    f"{one.address} announces itself as a node of cluster {self._config.cluster} (received from "
                    f"{one.source}), but is in no network of members.allow: add it there, or give its cluster another "
                    "number"
                )
        return found

    def _duplicates(self, seen: Iterable[SeenIdentity], own_versions: Collection[int]) -> dict[tuple[str, str], str]:
        """Two identities under one address: those of two nodes, or an old one that some router still holds."""
        found = {}
        sources: dict[IPv4Address, dict[int, str]] = {}
        for one in seen:
            sources.setdefault(one.address, {}).setdefault(one.version, one.source)
        for address, by_version in sources.items():
            foreign = [source for version, source in by_version.items() if version not in own_versions]
            if address == self._own and foreign:
                found["address", str(address)] = (
                    f"this node's address {address} is announced by another node as well, received from {foreign[0]}: "
                    "stop one of them, or give it another address (if there is no such node, the router holds an old "
                    "route: clear it there)"
                )
            elif address != self._own and len(by_version) > 1:
                found["address", str(address)] = (
                    f"{address} is announced by two nodes, received from {' and '.join(sorted(by_version.values()))}: "
                    "stop one of them, or give it another address (if there is only one, a router holds an old route: "
                    "clear it there)"
                )
        return found
