# SPDX-License-Identifier: Apache-2.0
"""The protocol between agent and relay: desired routes in one direction, the state of all neighbors in the other.

Owns the values and the agent's message; report.py has the relay's. One JSON object per line, on a Unix socket:

    agent to relay, at least once a second (it is the heartbeat too): all desired routes, never a difference
      {"desired": [route, ...], "fallback": [route, ...], "announcers": [prefix, ...]}
    and when it ends and no other agent follows: the relay need not wait until the agent counts as silent
      {"stop": true}

    relay to agent, in batches: on connecting all that follows from an empty state, then what has changed since the last
    batch. The agent applies a batch as a whole, when its end has arrived
      {"type": "peer", "peer": address, "state": "up"|"down", "since": seconds, "eor": bool,
       "why": text, "retry_s": seconds or null, "foreign": number, "families": ["ipv4"|"ipv6", ...],
       "local_address": address, "bfd": {...} or null}
                                                    a neighbor that is new, or has one of these changed
      {"type": "removed", "peer": address}          a neighbor that is no longer configured, and its routes
      {"type": "route", "peer": address, "rib": "in"|"out", "route": route}
                                                    a new or changed route in its Adj-RIB-In or Adj-RIB-Out
      {"type": "withdrawn", "peer": address, "rib": "in"|"out", "prefix": prefix}
      {"type": "end", "error": text or null, "deadman": bool, "held": bool, "silent": bool}
    relay to agent, before it closes the connection
      {"type": "goodbye", "reason": text}

A line carries one route, so no limit of a line is shared by routes. A line that is malformed, or that does not apply to
the state (a route of an unknown neighbor, the withdrawal of an unknown prefix), ends the connection; the next one
begins with the whole state.

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

MAX_DESIRED_BYTES = 4 << 20
"""The longest line that the relay accepts: thousands of routes."""

MAX_REPORT_BYTES = 256 << 10
"""The longest line that the agent accepts: a route with as many attributes as the longest BGP message holds (RFC 8654:
65,535 bytes), which is 230 kB of JSON."""

REPLACED = "replaced by a newer connection"
"""The reason in the goodbye to an agent when another one connects."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One BGP neighbor.

    What is unchanged from one snapshot to the next is the same object: each `Route`, each tuple, the whole `Peer`.

    `since`: when the session last came up or went down, or was first seen down, in seconds of CLOCK_MONOTONIC
    (time.monotonic(), and asyncio's loop.time()); 0 if that is not known. `why`: the reason while it is down
    (down_reason.py). `retry_s`: ExaBGP tries again within that time; None if it waits for the router. `eor`: the
    neighbor has sent its whole table (End-of-RIB, RFC 4724 section 2). `routes`: the learned routes, in no particular
    order; none while it is down. `adj_rib_out`: the routes in ExaBGP's Adj-RIB-Out for it. They are on the wire
    (`advertised`) only while the session is up, and only those of `families`: the negotiated ones, or the configured
    ones without a session. `local_address`: ours of the session. `foreign`: about how many routes it sends that are
    neither identities nor VIPs, which are dropped. `bfd`: its BFD session; None without BFD.
    """

    address: str
    up: bool
    since: float
    eor: bool
    routes: tuple[Route, ...] = ()
    adj_rib_out: tuple[Route, ...] = ()
    bfd: BfdStatus | None = None
    families: frozenset[str] = frozenset({"ipv4", "ipv6"})
    local_address: str = ""
    why: str = ""
    retry_s: int | None = None
    foreign: int = 0

    @property
    def announced(self) -> frozenset[str]:
        """The prefixes in its Adj-RIB-Out."""
        return frozenset(route.prefix for route in self.adj_rib_out)

    @property
    def advertised(self) -> frozenset[str]:
        """The prefixes that are advertised to it now: its session is up and carries their family."""
        if not self.up:
            return frozenset()
        return frozenset(p for p in self.announced if ("ipv6" if ":" in p else "ipv4") in self.families)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state of the relay.

    `error`: why the desired routes are not all in place, or None. `deadman`: the agent was silent for too long or has
    stopped, so the fallback is announced. `held`: the VIPs too, because too few other nodes announce them (quorum.py).
    `silent`: ExaBGP does not answer, so the sessions and the Adj-RIBs-Out are the last known ones, and may be gone.
    """

    peers: tuple[Peer, ...] = ()
    error: str | None = None
    deadman: bool = False
    held: bool = False
    silent: bool = False

    @property
    def advertised(self) -> frozenset[str]:
        """The prefixes that are advertised to at least one neighbor now."""
        return frozenset().union(*(peer.advertised for peer in self.peers))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The relay is about to close the connection, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class AgentStop:
    """The agent ends, and no other follows."""

    def encode(self) -> bytes:
        """Return the line, with its newline."""
        return encode_message({"stop": True})


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


def decode_from_agent(text: bytes) -> DesiredRoutes | AgentStop:
    """Decode the agent's line; BgpError names the fault."""
    message = decode_object(text)
    if message == {"stop": True}:
        return AgentStop()
    announcers = message.pop("announcers", [])
    if message.keys() != {"desired", "fallback"}:
        raise BgpError("message: expected the keys desired, fallback and announcers, and no others")
    if not isinstance(announcers, list) or not all(isinstance(prefix, str) for prefix in announcers):
        raise BgpError("message: announcers is not a list of prefixes")
    return DesiredRoutes(
        _routes(message["desired"], "desired"), _routes(message["fallback"], "fallback"), tuple(announcers)
    )


def decode_object(text: bytes) -> dict[str, Any]:
    """Decode a line; BgpError if it is no JSON object."""
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
