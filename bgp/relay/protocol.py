# SPDX-License-Identifier: Apache-2.0
"""The protocol between agent and relay: desired routes in one direction, snapshots of all neighbors in the other.

Owns the messages, one JSON object per line:

    agent to relay, at least once a second (it is the heartbeat too): all desired routes, never a difference
      {"desired": [route, ...], "fallback": [route, ...], "announcers": [prefix, ...]}
    relay to agent, at once on connecting and after each change: the whole state
      {"peers": [{"address", "state": "up"|"down", "since", "eor", "routes": [route, ...], "announced": [prefix, ...],
         "adj_rib_out": [route, ...], "families": ["ipv4"|"ipv6", ...], "local_address", "bfd"?: {...}}],
       "error": text or null, "deadman": bool, "held": bool}
    relay to agent, before it closes the connection
      {"goodbye": text}

Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bgp.bfd.status import BfdStatus
from bgp.errors import BgpError
from bgp.route import Route

MAX_LINE_BYTES = 4 << 20
"""The longest line that either end accepts: room for the relay's limit of routes (adj_rib_in.py)."""

REPLACED = "replaced by a newer connection"
"""The reason in the goodbye to an agent when another one connects."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One BGP neighbor.

    `since`: when the session last came up or went down, in seconds of CLOCK_MONOTONIC (time.monotonic(), and asyncio's
    loop.time()); 0 if it never was up. `eor`: the neighbor has sent its whole table (End-of-RIB, RFC 4724 section 2).
    `routes`: the learned routes; none while it is down. `announced`: the prefixes in ExaBGP's Adj-RIB-Out for it;
    `adj_rib_out`: the routes. They are on the wire (`advertised`) only while the session is up, and only those of
    `families`: the negotiated ones, or the configured ones without a session. `local_address`: ours of the session.
    `bfd`: its BFD session; None without BFD, and absent in JSON.
    """

    address: str
    up: bool
    since: float
    eor: bool
    routes: tuple[Route, ...] = ()
    announced: frozenset[str] = frozenset()
    adj_rib_out: tuple[Route, ...] = ()
    bfd: BfdStatus | None = None
    families: frozenset[str] = frozenset({"ipv4", "ipv6"})
    local_address: str = ""

    @property
    def advertised(self) -> frozenset[str]:
        """The prefixes that are advertised to it now: its session is up and carries their family."""
        if not self.up:
            return frozenset()
        return frozenset(p for p in self.announced if ("ipv6" if ":" in p else "ipv4") in self.families)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state of the relay.

    `error`: why the desired routes are not all in place, or None. `deadman`: the agent was silent for too long, so the
    fallback is announced. `held`: the VIPs too, because too few other nodes announce them (quorum.py).
    """

    peers: tuple[Peer, ...] = ()
    error: str | None = None
    deadman: bool = False
    held: bool = False

    @property
    def advertised(self) -> frozenset[str]:
        """The prefixes that are advertised to at least one neighbor now."""
        return frozenset().union(*(peer.advertised for peer in self.peers))

    def encode(self) -> bytes:
        """Return the line, with its newline."""
        return encode_message(
            {
                "peers": [_peer_to_json(p) for p in self.peers],
                "error": self.error,
                "deadman": self.deadman,
                "held": self.held,
            }
        )


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The relay is about to close the connection, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class DesiredRoutes:
    """The routes to advertise, and the fallback for when the agent falls silent.

    `announcers`: the identity prefixes of all nodes that announce VIPs as far as the agent knows, including its own.
    While fewer than half of them remain, a silent agent's VIPs stay (quorum.py); with an empty list they do not.
    """

    desired: tuple[Route, ...] = ()
    fallback: tuple[Route, ...] = ()
    announcers: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the line, with its newline."""
        return encode_message(
            {
                "desired": [r.to_json() for r in self.desired],
                "fallback": [r.to_json() for r in self.fallback],
                "announcers": list(self.announcers),
            },
        )


def encode_message(message: Mapping[str, Any]) -> bytes:
    """Encode one message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode_desired(text: bytes) -> DesiredRoutes:
    """Decode the agent's line; BgpError names the fault."""
    message = _object(text)
    announcers = message.pop("announcers", [])
    if message.keys() != {"desired", "fallback"}:
        raise BgpError("message: expected the keys desired, fallback and announcers, and no others")
    if not isinstance(announcers, list) or not all(isinstance(prefix, str) for prefix in announcers):
        raise BgpError("message: announcers is not a list of prefixes")
    return DesiredRoutes(
        _routes(message["desired"], "desired"), _routes(message["fallback"], "fallback"), tuple(announcers)
    )


def decode_report(text: bytes) -> Snapshot | Goodbye:
    """Decode the relay's line; BgpError names the fault."""
    message = _object(text)
    if "goodbye" in message:
        return Goodbye(str(message["goodbye"]))
    try:
        peers = tuple(_peer_from_json(peer) for peer in message["peers"])
        error = message["error"]
        error = None if error is None else str(error)
        return Snapshot(peers, error, bool(message["deadman"]), bool(message.get("held", False)))
    except (KeyError, TypeError, ValueError) as problem:
        raise BgpError(f"relay: unexpected message ({problem!r})") from None


def _object(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BgpError("message: not JSON") from None
    if not isinstance(message, dict):
        raise BgpError("message: not a JSON object")
    return message


def _routes(value: object, key: str) -> tuple[Route, ...]:
    if not isinstance(value, list):
        raise BgpError(f"message: {key} is not a list")
    routes = tuple(Route.from_json(item) for item in value)
    prefixes = [route.prefix for route in routes]
    if len(set(prefixes)) != len(prefixes):
        raise BgpError(f"message: {key} contains a prefix twice")
    return routes


def _peer_to_json(peer: Peer) -> dict[str, Any]:
    return {
        "address": peer.address,
        "state": "up" if peer.up else "down",
        "since": peer.since,
        "eor": peer.eor,
        "routes": [route.to_json() for route in peer.routes],
        "announced": sorted(peer.announced),
        "adj_rib_out": [route.to_json() for route in peer.adj_rib_out],
        **({"bfd": peer.bfd.to_json()} if peer.bfd else {}),
        "families": sorted(peer.families),
        "local_address": peer.local_address,
    }


def _peer_from_json(value: Mapping[str, Any]) -> Peer:
    return Peer(
        address=str(value["address"]),
        up=value["state"] == "up",
        since=float(value["since"]),
        eor=bool(value["eor"]),
        routes=tuple(Route.from_json(route) for route in value["routes"]),
        announced=frozenset(str(prefix) for prefix in value["announced"]),
        adj_rib_out=tuple(Route.from_json(route) for route in value.get("adj_rib_out", ())),
        bfd=BfdStatus.from_json(value["bfd"]) if "bfd" in value else None,
        families=frozenset(str(family) for family in value.get("families", ("ipv4", "ipv6"))),
        local_address=str(value.get("local_address", "")),
    )
