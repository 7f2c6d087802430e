# SPDX-License-Identifier: Apache-2.0
"""A route: what is announced and what is learned, as JSON to and from the relay and as a command for ExaBGP.

Owns the shape of one route. Does not know what its communities mean (community.py) or when it is announced
(session.py). Standard library only: the relay carries this file (archive.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bgp.errors import BgpError

LargeCommunity = tuple[int, int, int]
"""Global administrator, local data 1, local data 2: 32 bits each (RFC 8092 section 3)."""


@dataclass(frozen=True, slots=True)
class Route:
    """One prefix with what BGP says of it.

    `prefix` ("10.99.0.1/32") and `next_hop` ("10.0.0.11") are in the standard library's canonical spelling, so
    that equal routes compare equal. `large_communities` is sorted and free of repetitions: their order means
    nothing (RFC 8092 section 5). `as_path` is what a learned route passed through, nearest AS first; it is empty
    in a route to be announced, where the speaker adds its own.
    """

    prefix: str
    next_hop: str
    large_communities: tuple[LargeCommunity, ...] = ()
    as_path: tuple[int, ...] = ()

    @classmethod
    def of(cls, prefix: str, next_hop: str, large_communities: object = (), as_path: object = ()) -> Route:
        """Build one from anything, checked and canonical; BgpError says what is wrong with it."""
        return cls(_prefix(prefix), _address(next_hop), _communities(large_communities), _as_path(as_path))

    @classmethod
    def from_json(cls, value: object) -> Route:
        """Read what `to_json` wrote; unknown keys are an error, for a typo would change what is announced."""
        if not isinstance(value, Mapping):
            raise BgpError(f"route: {value!r} is not an object")
        fields = dict(value)
        prefix, next_hop = fields.pop("prefix", None), fields.pop("next_hop", None)
        communities, as_path = fields.pop("large_communities", ()), fields.pop("as_path", ())
        if fields:
            raise BgpError(f"route {prefix}: unknown key {min(map(str, fields))!r}")
        if not isinstance(prefix, str) or not isinstance(next_hop, str):
            raise BgpError("route: prefix and next_hop must be text")
        return cls.of(prefix, next_hop, communities, as_path)

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands for this route between agent and relay."""
        return {
            "prefix": self.prefix,
            "next_hop": self.next_hop,
            "large_communities": [list(community) for community in self.large_communities],
            "as_path": list(self.as_path),
        }

    def same_announcement(self, other: Route | None) -> bool:
        """Say whether announcing one or the other gives the neighbours the same."""
        return (
            other is not None
            and (self.prefix, self.next_hop) == (other.prefix, other.next_hop)
            and self.large_communities == other.large_communities
        )

    def announce_command(self) -> str:
        """ExaBGP's API command that announces this route to every neighbour, or replaces what it said of the prefix."""
        command = f"announce route {self.prefix} next-hop {self.next_hop}"
        if self.large_communities:
            command += f" large-community [ {' '.join(f'{a}:{b}:{c}' for a, b, c in self.large_communities)} ]"
        return command

    def withdraw_command(self) -> str:
        """ExaBGP's API command that takes this prefix back from every neighbour."""
        return f"withdraw route {self.prefix} next-hop {self.next_hop}"


def _prefix(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise BgpError(f"route: prefix: {error}") from None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise BgpError(f"route: next_hop: {error}") from None


def _communities(value: object) -> tuple[LargeCommunity, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise BgpError(f"route: large_communities: {value!r} is not a list")
    return tuple(sorted({_community(item) for item in value}))


def _community(item: object) -> LargeCommunity:
    if isinstance(item, list | tuple) and len(item) == 3 and all(_is_u32(part) for part in item):
        return (item[0], item[1], item[2])
    raise BgpError(f"route: large_communities: {item!r} is not three numbers of 32 bits")


def _as_path(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(_is_u32(part) for part in value):
        raise BgpError(f"route: as_path: {value!r} is not a list of AS numbers")
    return tuple(value)


def _is_u32(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 32
