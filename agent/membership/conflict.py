# SPDX-License-Identifier: Apache-2.0
"""Identities that contradict each other: two nodes with one address or one tag, prefixes that differ. Pure.

Owns what is told to the operator of it, and what to do; who is believed meanwhile is peer_table.py's. A contradiction is
told when it stood for `STANDS_S`: routers hand news on at their own pace (some hold it back for half a minute).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.address import tag_of
from agent.config.schema import Config

STANDS_S = 30.0


@dataclass(frozen=True, slots=True)
class SeenIdentity:
    """One identity of this cluster as one router tells it, believed or not."""

    peer: str
    prefix: str
    address: IPv4Address
    version: int
    origin: int | None
    """The AS that announced it first, as far as the path tells."""

    @property
    def source(self) -> str:
        """Where it came from, for people."""
        return f"{self.peer} (from AS {self.origin})" if self.origin is not None else self.peer


class Conflicts:
    """What contradicts what, and since when."""

    def __init__(self, config: Config, own: IPv4Address) -> None:
        self._config, self._own = config, own
        self._since: dict[tuple[str, str], float] = {}
        self.problems: tuple[str, ...] = ()
        """Those that stood long enough, a line each."""

    def observe(
        self, claims: Iterable[SeenIdentity], members: Iterable[IPv4Address], own_versions: Collection[int], now: float
    ) -> None:
        """Take in all that live sessions tell, and the members of the view: of two nodes with one prefix, routers may
        tell of one alone. `own_versions`: what this node speaks under.
        """
        claims = list(claims)
        found = self._tags({claim.address for claim in claims} | {self._own, *members})
        found |= self._prefixes(claims) | self._outsiders(claims) | self._copies(claims, own_versions)
        self._since = {key: self._since.get(key, now) for key in found}
        self.problems = tuple(text for key, text in sorted(found.items()) if now - self._since[key] >= STANDS_S)

    def _tags(self, known: Iterable[IPv4Address]) -> dict[tuple[str, str], str]:
        """Nodes are told apart by the low 16 bits of their addresses, in markers and by their prefixes."""
        by_tag: dict[int, set[IPv4Address]] = {}
        for address in known:
            by_tag.setdefault(tag_of(address), set()).add(address)
        return {
            ("tag", str(tag)): f"{' and '.join(map(str, sorted(addresses)))} have the same tag, {tag} (the low 16 bits "
            "of the address): give all but one another address"
            for tag, addresses in by_tag.items()
            if len(addresses) > 1
        }

    def _prefixes(self, claims: list[SeenIdentity]) -> dict[tuple[str, str], str]:
        network, found = self._config.bgp.identity_prefix, {}
        for claim in claims:
            if claim.prefix != f"{network.network_address + tag_of(claim.address)}/32":
                found["prefix", f"{claim.address} {claim.prefix}"] = (
                    f"{claim.address} is announced as {claim.prefix}, which is not its own in {network}: give all "
                    "nodes the same bgp.identity_prefix"
                )
        return found

    def _outsiders(self, claims: list[SeenIdentity]) -> dict[tuple[str, str], str]:
        found, allowed = {}, self._config.members.allow
        for claim in claims:
            if claim.address != self._own and not any(claim.address in network for network in allowed):
                found["allow", str(claim.address)] = (
                    f"{claim.address} says that it is a node of cluster {self._config.cluster}, but lies in no network "
                    f"of members.allow (told by {claim.source}): add it there, or give its cluster another number"
                )
        return found

    def _copies(self, claims: list[SeenIdentity], own_versions: Collection[int]) -> dict[tuple[str, str], str]:
        """Two identities under one address: of two nodes, or an old one that some router still holds."""
        found = {}
        told: dict[IPv4Address, dict[int, str]] = {}
        for claim in claims:
            told.setdefault(claim.address, {}).setdefault(claim.version, claim.source)
        for address, versions in told.items():
            foreign = [source for version, source in versions.items() if version not in own_versions]
            if address == self._own and foreign:
                found["address", str(address)] = (
                    f"this node's address {address} is announced by another node as well, told by {foreign[0]}: stop "
                    "one of them, or give it another address (if there is no such node, the router holds an old route: "
                    "clear it there)"
                )
            elif address != self._own and len(versions) > 1:
                found["address", str(address)] = (
                    f"{address} is announced by two nodes, told by {' and by '.join(sorted(versions.values()))}: stop "
                    "one of them, or give it another address (if there is but one, a router holds an old route: clear "
                    "it there)"
                )
        return found
