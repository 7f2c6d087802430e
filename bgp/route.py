# SPDX-License-Identifier: Apache-2.0
"""A route, advertised or learned: its JSON between agent and relay, and ExaBGP's commands for it.

Owns the fields of one route and their checks. Does not know what its communities mean (community.py) or when it is
advertised (reconciler.py). Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import starmap
from typing import Any, TypeVar

from bgp.errors import BgpError

Community = tuple[int, int]
"""Two numbers of 16 bits: an AS, and a value that this AS defines (RFC 1997)."""

LargeCommunity = tuple[int, int, int]
"""Global administrator, local data 1, local data 2: 32 bits each (RFC 8092 section 3)."""

MAX_PREPEND = 16

_KEPT = 1 << 14
"""Communities of each kind that are one object wherever they occur. The identities of 1,000 nodes consist of some
thousands of different ones, each in up to a thousand routes: this saves nine tenths of their memory."""

_AnyCommunity = TypeVar("_AnyCommunity", Community, LargeCommunity)


@dataclass(frozen=True, slots=True)
class Route:
    """One prefix and its BGP path attributes.

    `prefix` ("10.99.0.1/32") and `next_hop` ("10.0.0.11") are in the standard library's canonical spelling, so equal
    routes compare equal. `communities` and `large_communities` are sorted without duplicates: their order means nothing
    (RFC 8092 section 5). `as_path` is the AS_PATH of a learned route, nearest AS first; it is empty in a route to
    advertise, where the speaker adds its own AS once, and `prepend` times more. `med` is the MULTI_EXIT_DISC (RFC 4271
    section 5.1.4): of two routes into one AS, the neighbor prefers the lower. `next_hop_self`: the next hop is this
    node, so each neighbor receives our address of its own session as next hop.
    """

    prefix: str
    next_hop: str
    large_communities: tuple[LargeCommunity, ...] = ()
    as_path: tuple[int, ...] = ()
    communities: tuple[Community, ...] = ()
    med: int | None = None
    prepend: int = 0
    next_hop_self: bool = False

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
        next_hop_self: object = False,
    ) -> Route:
        """Build a route from unchecked values, in canonical form; BgpError names the value that is wrong."""
        return cls(
            _prefix(prefix),
            _address(next_hop),
            _set_of(_large_community, "large_communities", large_communities, "three numbers of 32 bits each"),
            _as_path(as_path),
            _set_of(_community, "communities", communities, "two numbers of 16 bits each"),
            _med(med),
            _prepend(prepend),
            _flag(next_hop_self),
        )

    @classmethod
    def from_json(cls, value: object) -> Route:
        """Read what `to_json` returned; an unknown key is an error, because a typo would change what is advertised."""
        if not isinstance(value, Mapping):
            raise BgpError(f"route: {value!r} is not an object")
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise BgpError(f"route {value.get('prefix')}: unknown key {min(map(str, unknown))!r}")
        if not isinstance(value.get("prefix"), str) or not isinstance(value.get("next_hop"), str):
            raise BgpError("route: prefix and next_hop must be strings")
        return cls.of(**value)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this route, as agent and relay exchange it."""
        value: dict[str, Any] = {
            "prefix": self.prefix,
            "next_hop": self.next_hop,
            "large_communities": self.large_communities,
            "as_path": self.as_path,
        }
        if self.communities:
            value["communities"] = self.communities
        if self.med is not None:
            value["med"] = self.med
        if self.prepend:
            value["prepend"] = self.prepend
        if self.next_hop_self:
            value["next_hop_self"] = True
        return value

    @property
    def ipv6(self) -> bool:
        """Whether the route belongs to the IPv6 unicast family."""
        return ":" in self.prefix

    def for_neighbor(self, local_as: int, peer_as: int, local_address: str) -> Route:
        """Return the route as ExaBGP gets it for one neighbor; `local_address` is ours of that session ("": unknown).

        A prepended AS path is written out. RFC 4271 section 5.1.2: a path begins with the speaker's own AS towards
        another AS and is empty towards its own, where prepending would look like a loop. ExaBGP follows that, except
        when a command contains a path. With `next_hop_self` the next hop is our address of the session (section
        5.1.3), provided that it is of the route's family and not link-local.
        """
        prepended = self.prepend and local_as != peer_as
        usable = (
            bool(local_address)
            and (":" in local_address) == self.ipv6
            and not ipaddress.ip_address(local_address).is_link_local
        )
        return replace(
            self,
            next_hop=local_address if self.next_hop_self and usable else self.next_hop,
            as_path=(local_as,) * (self.prepend + 1) if prepended else (),
            prepend=0,
            next_hop_self=False,
        )

    def announce_command(self, neighbor: str) -> str:
        """Return ExaBGP's API command (grammar 4) that advertises this route, as `for_neighbor` returned it.

        It replaces an earlier route to the same prefix.
        """
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
        """Return ExaBGP's API command that withdraws this prefix from the neighbor with that address."""
        return f"neighbor {neighbor} withdraw route {self.prefix} next-hop {self.next_hop}"


def _prefix(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise BgpError(f"route: prefix: {error}") from None
    return _without_zone("prefix", network.network_address, str(network))


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise BgpError(f"route: next_hop: {error}") from None
    return _without_zone("next_hop", address, str(address))


def _without_zone(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> str:
    # The standard library accepts any text as a zone, even blanks and line ends, which would end up in a command.
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise BgpError(f"route: {name}: {text!r} has a zone: use an address that is valid on every node")
    return text


def _set_of(community: Callable[..., _AnyCommunity], name: str, value: object, what: str) -> tuple[_AnyCommunity, ...]:
    """Return the communities in `value`, checked and made one object each by `community`, sorted without duplicates."""
    try:
        if not isinstance(value, list | tuple | set | frozenset) or not set(map(type, value)) <= {list, tuple}:
            raise TypeError
        return tuple(dict.fromkeys(sorted(starmap(community, value))))
    except (TypeError, ValueError):
        raise BgpError(f"route: {name}: {value!r:.200} is not a list of {what}") from None


@functools.lru_cache(_KEPT, typed=True)
def _community(asn: int, value: int) -> Community:
    if not (_is_unsigned(asn, 16) and _is_unsigned(value, 16)):
        raise ValueError
    return asn, value


@functools.lru_cache(_KEPT, typed=True)
def _large_community(administrator: int, data1: int, data2: int) -> LargeCommunity:
    if not (_is_unsigned(administrator, 32) and _is_unsigned(data1, 32) and _is_unsigned(data2, 32)):
        raise ValueError
    return administrator, data1, data2


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
    raise BgpError(f"route: next_hop_self: {value!r} is neither true nor false")


def _is_unsigned(value: object, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits
