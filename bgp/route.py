# SPDX-License-Identifier: Apache-2.0
"""A route: what is announced and what is learned, as JSON to and from the relay and as a command for ExaBGP.

Owns the shape of one route. Does not know what its communities mean (community.py) or when it is announced
(reconciler.py). Standard library only: the relay carries this file (helper_archive.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from bgp.errors import BgpError

Community = tuple[int, int]
"""Two halves of 16 bits: an AS number, and what it means to that AS (RFC 1997)."""

LargeCommunity = tuple[int, int, int]
"""Global administrator, local data 1, local data 2: 32 bits each (RFC 8092 section 3)."""

MAX_PREPEND = 16


@dataclass(frozen=True, slots=True)
class Route:
    """One prefix with what BGP says of it.

    `prefix` ("10.99.0.1/32") and `next_hop` ("10.0.0.11") are in the standard library's canonical spelling, so
    that equal routes compare equal. `communities` and `large_communities` are sorted and free of repetitions: their
    order means nothing (RFC 8092 section 5). `as_path` is what a learned route passed through, nearest AS first; it is
    empty in a route to be announced, where the speaker adds its own AS, and `prepend` more of it. `med` is the
    MULTI_EXIT_DISC (RFC 4271 section 5.1.4): of two ways into one AS, the neighbor prefers the lower. `own_hop`: the
    next hop is this node, so that each neighbor is told the address by which it knows the node.
    """

    prefix: str
    next_hop: str
    large_communities: tuple[LargeCommunity, ...] = ()
    as_path: tuple[int, ...] = ()
    communities: tuple[Community, ...] = ()
    med: int | None = None
    prepend: int = 0
    own_hop: bool = False

    @classmethod
    def of(
        cls,
        prefix: str,
        next_hop: str,
        large_communities: object = (),
        as_path: object = (),
        communities: object = (),
        med: object = None,
        prepend: object = 0,
        own_hop: object = False,
    ) -> Route:
        """Build one from anything, checked and canonical; BgpError says what is wrong with it."""
        return cls(
            _prefix(prefix),
            _address(next_hop),
            tuple((a, b, c) for a, b, c in _tuples("large_communities", large_communities, 3, 32)),
            _as_path(as_path),
            tuple((a, b) for a, b in _tuples("communities", communities, 2, 16)),
            _med(med),
            _prepend(prepend),
            _flag(own_hop),
        )

    @classmethod
    def from_json(cls, value: object) -> Route:
        """Read what `to_json` wrote; unknown keys are an error, for a typo would change what is announced."""
        if not isinstance(value, Mapping):
            raise BgpError(f"route: {value!r} is not an object")
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise BgpError(f"route {value.get('prefix')}: unknown key {min(map(str, unknown))!r}")
        if not isinstance(value.get("prefix"), str) or not isinstance(value.get("next_hop"), str):
            raise BgpError("route: prefix and next_hop must be text")
        return cls.of(**value)

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands for this route between agent and relay."""
        found: dict[str, Any] = {
            "prefix": self.prefix,
            "next_hop": self.next_hop,
            "large_communities": [list(community) for community in self.large_communities],
            "as_path": list(self.as_path),
        }
        if self.communities:
            found["communities"] = [list(community) for community in self.communities]
        if self.med is not None:
            found["med"] = self.med
        if self.prepend:
            found["prepend"] = self.prepend
        if self.own_hop:
            found["own_hop"] = True
        return found

    @property
    def ipv6(self) -> bool:
        """Whether it goes into the IPv6 unicast family."""
        return ":" in self.prefix

    def towards(self, own_as: int, peer_as: int, end: str) -> Route:
        """The route as the speaker is told it for one neighbor, towards which we have the address `end` ("": unknown).

        The AS path is written out if it is prepended. RFC 4271 section 5.1.2: a path begins with the speaker's own AS
        towards another AS and is empty towards its own, where prepending would look like a loop. ExaBGP does that,
        except where it is told of a path. The next hop, if it is this node, is our end of the session (section
        5.1.3) where that is of the route's family and no link-local one.
        """
        prepended = self.prepend and own_as != peer_as
        fits = bool(end) and (":" in end) == self.ipv6 and not ipaddress.ip_address(end).is_link_local
        return replace(
            self,
            next_hop=end if self.own_hop and fits else self.next_hop,
            as_path=(own_as,) * (self.prepend + 1) if prepended else (),
            prepend=0,
            own_hop=False,
        )

    def announce_command(self, neighbor: str) -> str:
        """ExaBGP's API command (grammar 4) that announces this route, as `towards` made it, to the neighbor of that
        address, or replaces what it said of the prefix."""
        command = f"neighbor {neighbor} announce route {self.prefix} next-hop {self.next_hop}"
        if self.as_path:
            command += f" as-path [ {' '.join(map(str, self.as_path))} ]"
        if self.med is not None:
            command += f" med {self.med}"
        for name, values in (("community", self.communities), ("large-community", self.large_communities)):
            if values:
                command += f" {name} [ {' '.join(':'.join(map(str, value)) for value in values)} ]"
        return command

    def withdraw_command(self, neighbor: str) -> str:
        """ExaBGP's API command that takes this prefix back from the neighbor of that address."""
        return f"neighbor {neighbor} withdraw route {self.prefix} next-hop {self.next_hop}"


def _prefix(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise BgpError(f"route: prefix: {error}") from None
    return _plain("prefix", network.network_address, str(network))


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise BgpError(f"route: next_hop: {error}") from None
    return _plain("next_hop", address, str(address))


def _plain(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> str:
    # The standard library takes anything for a zone, blanks and line ends too: here they would end up in a command.
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise BgpError(f"route: {name}: {text!r} has a zone: give an address that every node understands")
    return text


def _tuples(name: str, value: object, length: int, bits: int) -> list[tuple[int, ...]]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise BgpError(f"route: {name}: {value!r} is not a list")
    for item in value:
        parts = item if isinstance(item, list | tuple) else ()
        if len(parts) != length or not all(_is_unsigned(part, bits) for part in parts):
            raise BgpError(f"route: {name}: {item!r} is not {length} numbers of {bits} bits")
    return sorted({tuple(item) for item in value})


def _as_path(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(_is_unsigned(part, 32) for part in value):
        raise BgpError(f"route: as_path: {value!r} is not a list of AS numbers")
    return tuple(value)


def _med(value: object) -> int | None:
    if value is None or (isinstance(value, int) and _is_unsigned(value, 32)):
        return value
    raise BgpError(f"route: med: {value!r} is not a number of 32 bits")


def _prepend(value: object) -> int:
    if type(value) is int and 0 <= value <= MAX_PREPEND:
        return value
    raise BgpError(f"route: prepend: {value!r} is not in 0-{MAX_PREPEND}")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise BgpError(f"route: own_hop: {value!r} is neither true nor false")


def _is_unsigned(value: object, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits
