# SPDX-License-Identifier: Apache-2.0
"""The speaker's configuration as checked values: its neighbors, its user, and the prefixes that it may advertise.

Owns the values and their limits; renderer.py writes them in ExaBGP's language.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from bgp.bfd.config import BfdPeer, BfdTimers
from bgp.errors import BgpError

USER: Final = "anylb-bgp"
"""The user that setup.sh creates for ExaBGP."""

SOCKET_NAME = "relay.sock"
MAX_PASSWORD_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN (linux/tcp.h)."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class NeighborConfig:
    """One neighbor.

    `hold_time_s` is our offer: at least 3 (RFC 4271 section 4.2); the lower offer of both ends applies. `local_as`: our
    AS towards this neighbor if it differs from the speaker's. `families` ("ipv4", "ipv6"): by default that of the
    address. `password`: TCP MD5 (RFC 2385). `ttl_security`: packets with a TTL below 255 are dropped (RFC 5082).
    `multihop`: how many hops away it may be; without it a neighbor in another AS must be on the link. `passive`: it
    connects to us, and we listen on `local_address`. `interface`: the interface of a link-local address.
    `graceful_restart_s`: how long the neighbor keeps our routes after the speaker is gone; 0 disables it.
    """

    address: Address
    peer_as: int
    local_address: Address
    hold_time_s: int = 9
    local_as: int | None = None
    families: tuple[str, ...] = ()
    password: bytes | None = field(default=None, repr=False)
    ttl_security: bool = False
    multihop: int | None = None
    passive: bool = False
    interface: str | None = None
    graceful_restart_s: int = 0
    bfd: BfdTimers | None = None

    def __post_init__(self) -> None:
        if not 3 <= self.hold_time_s <= 65535:
            raise self._error(f"hold time {self.hold_time_s} s is not in 3-65535")
        if self.local_address.version != self.address.version:
            raise self._error(f"{self.local_address} is of another family")
        if self.password is not None and not 0 < len(self.password) <= MAX_PASSWORD_BYTES:
            raise self._error(f"the password has {len(self.password)} bytes, not 1-{MAX_PASSWORD_BYTES}")
        if (self.address.version == 6 and self.address.is_link_local) != (self.interface is not None):
            raise self._error("a link-local IPv6 address needs an interface, and no other address takes one")
        if self.ttl_security and self.multihop:
            raise self._error("GTSM is for a neighbor on the link, multihop for one behind routers: choose one")

    def _error(self, what: str) -> BgpError:
        return BgpError(f"bgp: neighbor {self.address}: {what}")

    def with_zone(self, address: Address) -> str:
        """Return one of the session's addresses as text, with %interface if it is link-local."""
        return f"{address}%{self.interface}" if self.interface else str(address)

    @property
    def session_families(self) -> tuple[str, ...]:
        """The address families that we offer in the session, in order."""
        return tuple(sorted(self.families)) or (f"ipv{self.address.version}",)


@dataclass(frozen=True, slots=True)
class SpeakerConfig:
    """Everything that ExaBGP needs.

    `user` runs ExaBGP and its helpers. `agent_uid` may connect to the relay, besides root. `allow`: an agent may
    advertise host routes inside these prefixes only; none without any. `exactly`: and these prefixes themselves.
    `learn`: the relay learns host routes inside these as well; whatever else a router sends is dropped.
    """

    local_as: int
    router_id: IPv4Address
    peers: tuple[NeighborConfig, ...]
    user: str = USER
    run_dir: Path = Path("/run/anylb-bgp")
    agent_uid: int = 0
    allow: tuple[Network, ...] = ()
    exactly: tuple[Network, ...] = ()
    learn: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if not self.peers:
            raise BgpError("bgp: no neighbor is configured: add one")
        addresses = [str(peer.address) for peer in self.peers]
        for address in addresses:
            if addresses.count(address) > 1:
                raise BgpError(f"bgp: neighbor {address} is configured twice: remove one")
        local = (peer.local_as for peer in self.peers if peer.local_as is not None)
        for number in (self.local_as, *local, *(peer.peer_as for peer in self.peers)):
            if not 0 < number < (1 << 32) - 1:
                raise BgpError(f"bgp: AS number {number} is not in 1-4294967294")
        if any(character.isspace() or character in ";{}#'\"" for character in str(self.run_dir)):
            raise BgpError(f"bgp: {self.run_dir}: ExaBGP cannot read a path with spaces or quotes: choose another")

    @property
    def socket_path(self) -> Path:
        """The relay's socket, to which the agent connects."""
        return self.run_dir / SOCKET_NAME

    @property
    def listen_addresses(self) -> frozenset[Address]:
        """The addresses on which ExaBGP must open the BGP port, which takes root."""
        return frozenset(peer.local_address for peer in self.peers if peer.passive)

    @property
    def bfd_peers(self) -> tuple[BfdPeer, ...]:
        """The neighbors that the BFD process monitors."""
        return tuple(
            BfdPeer(
                peer.with_zone(peer.address),
                peer.with_zone(peer.local_address),
                peer.bfd.interval_ms,
                peer.bfd.multiplier,
                peer.multihop or 0,
            )
            for peer in self.peers
            if peer.bfd is not None
        )

    def local_as_for(self, peer: NeighborConfig) -> int:
        """Return our AS towards a neighbor."""
        return peer.local_as if peer.local_as is not None else self.local_as
