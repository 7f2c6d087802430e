# SPDX-License-Identifier: Apache-2.0
"""The messages of ExaBGP 5's helper API: each line that ExaBGP writes to its helper, parsed.

Owns ExaBGP's formats (JSON events 5.0.0, `show adj-rib` in format v2, bare `done` and `error`); reconciler.py acts on
the messages. A line without meaning for us parses to None: ExaBGP writes more than we ask for. Standard library only:
the relay archive carries this file.

    {"exabgp": "5.0.0", "type": "state", "neighbor": {"address": {"peer": "10.0.0.1"}, "state": "up"}}
    {"exabgp": "5.0.0", "type": "state", "neighbor": {"address": {"peer": "10.0.0.1"}, "state": "down",
        "reason": "notification received (6,4): Cease / Administrative Reset; next try within 1 s"}}
    {"exabgp": "5.0.0", "type": "update", "neighbor": {..., "message": {"update": {
        "attribute": {"as-path": {"0": {"element": "as-sequence", "value": [65000]}}, "large-community": [[1, 2, 3]]},
        "announce": {"ipv4 unicast": {"10.0.0.12": [{"nlri": "10.254.0.12/32"}]}},
        "withdraw": {"ipv4 unicast": [{"nlri": "10.254.0.13/32"}]}}}}}
    {"exabgp": "5.0.0", "type": "update", "neighbor": {..., "message": {"eor": {"afi": "ipv4", "safi": "unicast"}}}}
    {"peer": {"address": "10.0.0.1"}, "route": {"nlri": {"prefix": "10.99.0.1/32", "nexthop": "10.0.0.11"},
        "attributes": {"as-path": {...}, "med": 50, "community": ["65000:100", "no-export"],
        "large-community": ["1:2:3"]}}}
    [{"fsm": "ESTABLISHED", "duration": 14, "local": {"address": "10.0.0.11", "as": 65001,
      "families": {"ipv4 unicast": true}}, "peer": {"address": "10.0.0.1", "as": 65000},
      "families": ["ipv4 unicast"], ...}, ...]
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bgp.errors import BgpError
from bgp.exabgp import down_reason
from bgp.route import Route

SHOW_VERSION = "version"
SHOW_NEIGHBORS = "show neighbor json"
SHOW_ADJ_RIB_IN = "show adj-rib in json"
SHOW_ADJ_RIB_OUT = "show adj-rib out json"
DROP_QUEUE = "reset"
"""Drops the commands that an earlier helper left in the queue. The only command without an answer."""
PING = "# ping"
"""A comment, which ExaBGP answers like a command."""
MAX_DURATION_S = 1e9

_UNICAST = ("ipv4 unicast", "ipv6 unicast")
_WELL_KNOWN = {
    "no-export": "65535:65281",
    "no-advertise": "65535:65282",
    "no-export-subconfed": "65535:65283",
    "no-peer": "65535:65284",
    "blackhole": "65535:666",
}
"""Communities that `show adj-rib` prints by name (RFC 1997, RFC 3765, RFC 7999); events contain numbers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The line that ends the answer to a command: `done` or `error`."""

    done: bool


@dataclass(frozen=True, slots=True)
class VersionAnswer:
    """The answer to SHOW_VERSION."""

    text: str


@dataclass(frozen=True, slots=True)
class NeighborStatus:
    """One neighbor in the answer to SHOW_NEIGHBORS.

    `uptime_s`: how long its session has been up. `local_address`: ours of the session. `families` ("ipv4", "ipv6"):
    those configured for it; `negotiated`: those of this session.
    """

    address: str
    up: bool
    uptime_s: float
    local_as: int
    peer_as: int
    local_address: str
    families: frozenset[str]
    negotiated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NeighborList:
    """The answer to SHOW_NEIGHBORS."""

    neighbors: tuple[NeighborStatus, ...]


@dataclass(frozen=True, slots=True)
class ListedRoute:
    """One line of the answer to SHOW_ADJ_RIB_IN or SHOW_ADJ_RIB_OUT."""

    peer: str
    route: Route


@dataclass(frozen=True, slots=True)
class SessionChange:
    """A session came up or went down, or an attempt failed: why, and within how many seconds the next one follows."""

    peer: str
    up: bool
    reason: str = ""
    retry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Routes that a neighbor advertised, and prefixes that it withdrew (UPDATE)."""

    peer: str
    advertised: tuple[Route, ...]
    withdrawn: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """A neighbor has sent its whole table of an address family (End-of-RIB, RFC 4724 section 2)."""

    peer: str
    family: str


Message = Answer | VersionAnswer | NeighborList | ListedRoute | SessionChange | Update | EndOfRib


def parse(line: str) -> Message | None:
    """Parse one line; None if it is malformed or has no meaning for us. Never raises."""
    line = line.strip()
    if line in ("done", "error"):
        return Answer(line == "done")
    if line.startswith("exabgp "):
        return VersionAnswer(line.removeprefix("exabgp "))
    try:
        value = json.loads(line)
        if isinstance(value, list):
            return NeighborList(tuple(map(_neighbor, value)))
        if "exabgp" in value:
            return _event(value)
        return ListedRoute(_neighbor_address(value["peer"]["address"]), _listed_route(value["route"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, BgpError):
        return None


def _neighbor(value: Mapping[str, Any]) -> NeighborStatus:
    duration_s = float(value["duration"])
    if not 0 <= duration_s <= MAX_DURATION_S:
        raise ValueError("duration")
    # "state" is still down in the first second of a session; "fsm" is not.
    return NeighborStatus(
        _neighbor_address(value["peer"]["address"]),
        value["fsm"] == "ESTABLISHED",
        duration_s,
        _as_number(value["local"]["as"]),
        _as_number(value["peer"]["as"]),
        str(ipaddress.ip_address(value["local"]["address"])),
        _families(value["local"]["families"]),
        _families(value["families"]),
    )


def _neighbor_address(text: str) -> str:
    """Return the address in ExaBGP's spelling; ValueError if it is none: it ends up in commands and on terminals."""
    ipaddress.ip_address(text)
    if not text.isprintable():
        raise ValueError("zone")  # the standard library accepts any text as one
    return text


def _as_number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ValueError("AS number")
    return value


def _families(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.removesuffix(" unicast") for name in names if name in _UNICAST)


def _listed_route(value: Mapping[str, Any]) -> Route:
    nlri, attributes = value["nlri"], value["attributes"]
    return _route(
        nlri["prefix"],
        nlri["nexthop"],
        {
            **attributes,
            "community": [_numbers(_WELL_KNOWN.get(text, text)) for text in attributes.get("community", [])],
            "large-community": [_numbers(text) for text in attributes.get("large-community", [])],
        },
    )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(":")]


def _event(value: Mapping[str, Any]) -> Message | None:
    neighbor = value["neighbor"]
    peer = _neighbor_address(neighbor["address"]["peer"])
    if value["type"] == "state":
        state = neighbor["state"]
        if state == "down":
            return SessionChange(peer, False, *down_reason.parse(str(neighbor.get("reason", ""))))
        # "connected" is TCP only.
        return SessionChange(peer, True) if state == "up" else None
    if value["type"] != "update":
        return None
    message = neighbor["message"]
    if "eor" in message:
        return EndOfRib(peer, message["eor"]["afi"])
    update = message["update"]
    return Update(peer, tuple(_advertised(update)), tuple(_withdrawn(update)))


def _advertised(update: Mapping[str, Any]) -> Iterator[Route]:
    attributes = update.get("attribute", {})
    seen = set()
    for _family, by_next_hop in _unicast(update.get("announce", {})):
        for next_hop, entries in by_next_hop.items():
            for entry in entries:
                # An IPv6 prefix appears under its global next hop and then under the link-local one.
                if entry["nlri"] not in seen:
                    seen.add(entry["nlri"])
                    yield _route(entry["nlri"], next_hop, attributes)


def _withdrawn(update: Mapping[str, Any]) -> Iterator[str]:
    for _family, entries in _unicast(update.get("withdraw", {})):
        for entry in entries:
            yield _prefix(entry["nlri"])


def _unicast(by_family: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((family, value) for family, value in by_family.items() if family in _UNICAST)


def _route(prefix: str, next_hop: str, attributes: Mapping[str, Any]) -> Route:
    segments = attributes.get("as-path", {})
    as_path = [number for index in sorted(segments, key=int) for number in segments[index]["value"]]
    communities, large = attributes.get("community", []), attributes.get("large-community", [])
    return Route.of(_prefix(prefix), next_hop, large, as_path, communities, attributes.get("med"))


def _prefix(text: str) -> str:
    # Bits beyond the prefix length are irrelevant and may be set (RFC 4271 section 4.3).
    return str(ipaddress.ip_network(text, strict=False))
