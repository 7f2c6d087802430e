# SPDX-License-Identifier: Apache-2.0
"""The configuration of the BFD process: a file that lists its peers, written by the speaker.

    bfd.json  [{"address", "local_address", "interval_ms", "multiplier", "multihop"}, ...]

Owns the values and their JSON; file_watch.py reads the file again when it is replaced. Standard library only: the
helper archives carry this file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass

from bgp.errors import BgpError

CONFIG_NAME = "bfd.json"
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 50, 10_000
MIN_MULTIPLIER, MAX_MULTIPLIER = 2, 255


@dataclass(frozen=True, slots=True)
class BfdTimers:
    """Send and expect a packet each `interval_ms`; `multiplier` missing packets are a failure (RFC 5880)."""

    interval_ms: int = 300
    multiplier: int = 3


@dataclass(frozen=True, slots=True)
class BfdPeer:
    """One neighbor to monitor.

    Addresses are text; a link-local address carries its interface: fe80::1%eth0. `multihop`: how many hops away the
    neighbor may be (RFC 5883); 0: it is on the link.
    """

    address: str
    local_address: str
    interval_ms: int = 300
    multiplier: int = 3
    multihop: int = 0

    @property
    def name(self) -> str:
        """ExaBGP's name of this neighbor: the address without its interface."""
        return self.address.partition("%")[0]


def encode_peers(peers: Iterable[BfdPeer]) -> bytes:
    """Return the content of the configuration file."""
    return json.dumps([dataclasses.asdict(peer) for peer in peers], indent=1).encode() + b"\n"


def decode_peers(text: bytes) -> tuple[BfdPeer, ...]:
    """Read the configuration file; BgpError if it is malformed."""
    try:
        return tuple(BfdPeer(**peer) for peer in json.loads(text))
    except (ValueError, TypeError) as problem:
        raise BgpError(f"{CONFIG_NAME}: {problem}: restart the BGP service, which writes it again") from None
