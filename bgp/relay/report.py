# SPDX-License-Identifier: Apache-2.0
"""The relay's reports to the agent: what changed between two snapshots, and how the agent applies it.

Owns both ends of these messages, which protocol.py lists, so that one change of a route costs one line, whatever the
number of routes. Pure. Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import chain, compress
from operator import is_not
from typing import Any

from bgp.bfd.status import BfdStatus
from bgp.errors import BgpError
from bgp.printable import printable
from bgp.relay.protocol import Goodbye, Peer, Snapshot, decode_object, encode_message
from bgp.relay.rib import MAX_BYTES, MAX_ROUTES, Rib
from bgp.route import Route

MAX_PEERS = 256
"""With the limits of a neighbor, a bound on the memory of an agent whose relay is faulty or compromised."""

MAX_ERROR = 1000
"""Characters of an error or a reason."""

_STATES = {True: "up", False: "down"}


def encode_changes(before: Snapshot, after: Snapshot) -> Iterator[bytes]:
    """Encode the batch of lines that makes `before` equal to `after`, each when it is asked for."""
    known = {peer.address: peer for peer in before.peers}
    for peer in after.peers:
        old = known.pop(peer.address, None)
        if old is None or _without_routes(old) != _without_routes(peer):
            yield encode_message(_peer_to_json(peer))
        yield from _rib_changes(peer.address, "in", old.routes if old else (), peer.routes)
        yield from _rib_changes(peer.address, "out", old.adj_rib_out if old else (), peer.adj_rib_out)
    for address in known:
        yield encode_message({"type": "removed", "peer": address})
    yield encode_message(
        {"type": "end", "error": after.error, "deadman": after.deadman, "held": after.held, "silent": after.silent}
    )


def encode_goodbye(reason: str) -> bytes:
    """Encode the last line of a connection."""
    return encode_message({"type": "goodbye", "reason": reason})


def _rib_changes(address: str, rib: str, before: tuple[Route, ...], after: tuple[Route, ...]) -> Iterator[bytes]:
    if before is after:
        return
    # Most positions hold the same object as before: what follows looks at the others only.
    moved = list(map(is_not, before, after))
    old = {route.prefix: route for route in chain(compress(before, moved), before[len(after) :])}
    common = {"peer": address, "rib": rib}
    for route in chain(compress(after, moved), after[len(before) :]):
        if old.pop(route.prefix, None) != route:
            yield encode_message({"type": "route", **common, "route": route.to_json()})
    for prefix in old:
        yield encode_message({"type": "withdrawn", **common, "prefix": prefix})


def _without_routes(peer: Peer) -> Peer:
    return replace(peer, routes=(), adj_rib_out=())


def _peer_to_json(peer: Peer) -> dict[str, Any]:
    return {
        "type": "peer",
        "peer": peer.address,
        "state": _STATES[peer.up],
        "since": peer.since,
        "why": peer.why,
        "retry_s": peer.retry_s,
        "eor": peer.eor,
        "foreign": peer.foreign,
        "families": sorted(peer.families),
        "local_address": peer.local_address,
        "bfd": peer.bfd.to_json() if peer.bfd else None,
    }


def _rib() -> Rib:
    # Twice the relay's limits: while a batch is applied, routes may be there that are withdrawn at its end.
    return Rib(2 * MAX_ROUTES, 2 * MAX_BYTES)


@dataclass(slots=True)
class _PeerState:
    """A peer while a batch is applied to it; `peer` has its routes from before that batch."""

    peer: Peer
    ribs: Mapping[str, Rib] = field(default_factory=lambda: {"in": _rib(), "out": _rib()})

    def finish(self) -> Peer:
        """Return the peer after the batch, the same object if nothing has changed."""
        routes, adj_rib_out = self.ribs["in"].routes, self.ribs["out"].routes
        if routes is not self.peer.routes or adj_rib_out is not self.peer.adj_rib_out:
            self.peer = replace(self.peer, routes=routes, adj_rib_out=adj_rib_out)
        return self.peer


class ReportReader:
    """The agent's end of one connection: it applies the lines in the order of their arrival."""

    def __init__(self) -> None:
        self._peers: dict[str, _PeerState] = {}

    def receive(self, line: bytes) -> Snapshot | Goodbye | None:
        """Apply one line. Return the snapshot when it ends a batch.

        BgpError if it is malformed or does not apply to the state; the reader is of no use from then on.
        """
        message = decode_object(line)
        try:
            match message["type"]:
                case "route":
                    self._put(message)
                case "withdrawn":
                    self._withdraw(message)
                case "peer":
                    self._put_peer(message)
                case "removed":
                    del self._peers[message["peer"]]
                case "end":
                    return self._finish(message)
                case "goodbye":
                    return Goodbye(printable(str(message["reason"])))
                case other:
                    raise ValueError(other)
        except (KeyError, TypeError, ValueError, OverflowError, BgpError) as problem:
            why = f"{problem!r:.200}"
            raise BgpError(f"unexpected message ({why}): restart lb-bgp if its version is not the agent's") from None
        return None

    def _put(self, message: Mapping[str, Any]) -> None:
        rib = self._peers[message["peer"]].ribs[message["rib"]]
        rib.put(Route.from_json(message["route"]))
        if rib.overflow:
            raise ValueError("too many routes")

    def _withdraw(self, message: Mapping[str, Any]) -> None:
        if not self._peers[message["peer"]].ribs[message["rib"]].drop(message["prefix"]):
            raise ValueError("no such route")

    def _put_peer(self, message: Mapping[str, Any]) -> None:
        peer = _peer(message)
        known = self._peers.get(peer.address)
        if known is not None:
            known.peer = replace(peer, routes=known.peer.routes, adj_rib_out=known.peer.adj_rib_out)
        elif len(self._peers) < MAX_PEERS:
            self._peers[peer.address] = _PeerState(peer)
        else:
            raise ValueError("too many neighbors")

    def _finish(self, message: Mapping[str, Any]) -> Snapshot:
        peers = tuple(self._peers[address].finish() for address in sorted(self._peers))
        error = message["error"]
        return Snapshot(
            peers,
            None if error is None else printable(str(error), MAX_ERROR),
            bool(message["deadman"]),
            bool(message["held"]),
            bool(message["silent"]),
        )


def _peer(message: Mapping[str, Any]) -> Peer:
    address, since, bfd, retry_s = message["peer"], float(message["since"]), message["bfd"], message["retry_s"]
    local_address = str(message["local_address"])
    if local_address:  # empty while it is unknown
        ip_address(local_address)
    if not isinstance(address, str) or message["state"] not in _STATES.values() or not math.isfinite(since):
        raise ValueError("peer, state or since")
    if not address.isprintable() or (retry_s is not None and not (type(retry_s) is int and 0 <= retry_s < 1 << 32)):
        raise ValueError("peer or retry_s")
    return Peer(
        address=address,
        up=message["state"] == _STATES[True],
        since=since,
        eor=bool(message["eor"]),
        bfd=None if bfd is None else BfdStatus.from_json(bfd),
        families=frozenset(printable(str(one)) for one in message["families"]),
        local_address=local_address,
        why=printable(str(message["why"]), MAX_ERROR),
        retry_s=retry_s,
        foreign=int(message["foreign"]),
    )
