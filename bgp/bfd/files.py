# SPDX-License-Identifier: Apache-2.0
"""The two files of the BFD process: whom it is to watch, written by the speaker, and what it sees, read by the relay.

    bfd.json        [{"address", "local_address", "interval_ms", "multiplier", "multihop"}, ...]
    bfd.state.json  {name: {"state", "since", "diagnostic", "interval_ms", "detection_ms", "error"}, ...}

Files, not sockets: each side may be killed and started again without the other's noticing. What is in them, as values;
reading and replacing is file_watch.py's. Standard library only: the relay carries this file (helper_archive.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bgp.errors import BgpError

CONFIG_NAME = "bfd.json"
STATE_NAME = "bfd.state.json"
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 50, 10_000
MIN_MULTIPLIER, MAX_MULTIPLIER = 2, 255


@dataclass(frozen=True, slots=True)
class BfdTimers:
    """How often to send to a neighbor and hear from it, and how many packets may be missed."""

    interval_ms: int = 300
    multiplier: int = 3


@dataclass(frozen=True, slots=True)
class BfdPeer:
    """One neighbor to watch. `multihop`: it may be behind other routers (RFC 5883), which makes TTLs say nothing.

    Addresses as text; a link-local one has its interface behind a %.
    """

    address: str
    local_address: str
    interval_ms: int = 300
    multiplier: int = 3
    multihop: bool = False

    @property
    def name(self) -> str:
        """How ExaBGP calls it: without its interface."""
        return self.address.partition("%")[0]


@dataclass(frozen=True, slots=True)
class BfdState:
    """What is known of one neighbor's path.

    `state`: up, init, down or admin_down. `since`: when it became so, in seconds of CLOCK_MONOTONIC. `diagnostic`: why
    it last went down, "" if it is up or never was. `interval_ms`: between two packets of ours; `detection_ms`: the
    silence after which the neighbor counts as down, 0 while there is none. `error`: why there can be no session.
    """

    state: str
    since: float
    diagnostic: str = ""
    interval_ms: float = 0
    detection_ms: float = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's kinds of values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BfdState:
        """Read what to_json gave. ValueError, KeyError or TypeError when it is not that."""
        error = value["error"]
        return cls(
            str(value["state"]),
            float(value["since"]),
            str(value["diagnostic"]),
            float(value["interval_ms"]),
            float(value["detection_ms"]),
            None if error is None else str(error),
        )


def encode_peers(peers: Iterable[BfdPeer]) -> bytes:
    """Return the content of the first file."""
    return json.dumps([dataclasses.asdict(peer) for peer in peers], indent=1).encode() + b"\n"


def decode_peers(text: bytes) -> tuple[BfdPeer, ...]:
    """Read the first file; BgpError when it is not that."""
    try:
        return tuple(BfdPeer(**peer) for peer in json.loads(text))
    except (ValueError, TypeError) as problem:
        raise BgpError(f"{CONFIG_NAME}: {problem}: start the BGP service again, which writes it anew") from None


def encode_states(states: Mapping[str, BfdState]) -> bytes:
    """Return the content of the second file."""
    return json.dumps({name: state.to_json() for name, state in states.items()}).encode()


def decode_states(text: bytes) -> dict[str, BfdState]:
    """Read the second file; what cannot be read is left out: it is for people to look at."""
    try:
        return {str(name): BfdState.from_json(value) for name, value in json.loads(text or b"{}").items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
