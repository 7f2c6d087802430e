# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `bgp:` and `services[].announce:`: the peers, the allowed prefixes, and the attributes of VIPs' routes.

Owns the schema of these sections and contradictions within them; rules between sections are cross_check.py's.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from agent.config.fields import (
    AnyAddress,
    AnyNetwork,
    Asn,
    CommunityText,
    LargeCommunityText,
    PeerAddress,
    Section,
    Switch,
    UnicastAddress,
    V4Address,
    fault,
    is_unicast,
    within,
)
from bgp.bfd.config import MAX_INTERVAL_MS, MAX_MULTIPLIER, MIN_INTERVAL_MS, MIN_MULTIPLIER
from bgp.exabgp.config import USER
from bgp.route import MAX_PREPEND

Family = Literal["ipv4", "ipv6"]


class AnnounceConfig(Section):
    """Attributes of routes, for routers that are configured to act upon them."""

    communities: tuple[CommunityText, ...] = ()
    """Communities (RFC 1997), as `AS:NUMBER` or a well-known name. Example: `["65000:100"]`."""
    large_communities: tuple[LargeCommunityText, ...] = ()
    """Large communities (RFC 8092). Example: `["65000:1:2"]`."""
    med: Annotated[int, Field(strict=True), within(0, 4_294_967_295)] | None = None
    """The multi-exit discriminator: routers of one AS prefer the lowest. Example: `50`."""
    prepend: Annotated[int, Field(strict=True), within(0, MAX_PREPEND)] = 0
    """How often the own AS is repeated in the path, beyond once. Example: `2`."""
    next_hop: UnicastAddress | None = None
    """The next hop, by default this node's end of the session. Example: `10.0.0.99`."""


class BfdConfig(Section):
    """Bidirectional forwarding detection (RFC 5880): a path is down after some intervals of silence."""

    interval_ms: Annotated[int, Field(strict=True), within(MIN_INTERVAL_MS, MAX_INTERVAL_MS)] = 300
    """How often both ends send, in milliseconds. The slower end decides. Example: `300`."""
    multiplier: Annotated[int, Field(strict=True), within(MIN_MULTIPLIER, MAX_MULTIPLIER)] = 3
    """After how many intervals of silence the path is down. Example: `3`."""


class PeerConfig(Section):
    """A BGP router."""

    address: PeerAddress
    """The router's address; a link-local one with its interface. Example: `10.0.0.1`."""
    asn: Annotated[Asn, Field(alias="as")]
    """The router's AS number. Example: `65000`."""
    local_as: Asn | None = None
    """This node's AS number in the session, instead of `bgp.local_as`. Example: `65001`."""
    hold_time_s: Annotated[int, Field(strict=True), within(3, 65_535)] = 9
    """The hold time (RFC 4271), in seconds: how long a silent death of this node keeps its routes in the router.
    Example: `3`."""
    password_file: Path | None = None
    """A file with the password of TCP MD5 (RFC 2385). It belongs to root, with mode 600. Example:
    `router1.password`."""
    ttl_security: Switch = False
    """Whether the router is directly connected, and packets from farther away are dropped (RFC 5082). Example:
    `true`."""
    multihop: Annotated[int, Field(strict=True), within(2, 255)] | None = None
    """The router's greatest distance, in hops. Without it a router of another AS is directly connected. Example:
    `3`."""
    passive: Switch = False
    """Whether the router connects to this node, and not the other way round. Example: `true`."""
    source: AnyAddress | None = None
    """This node's end of the session, and the next hop that the router receives. By default the node's own address.
    Example: `10.0.0.11`."""
    families: Annotated[tuple[Family, ...], Field(min_length=1)] | None = None
    """The address families of the session, by default that of `address`. One peer at least carries ipv4, for the
    identities. Example: `[ipv4, ipv6]`."""
    graceful_restart_s: Annotated[int, Field(strict=True), within(0, 4095)] = 0
    """How long the router keeps the routes of a dead speaker, in seconds (RFC 4724). Traffic is lost meanwhile if the
    node is dead too. Example: `120`."""
    bfd: BfdConfig | None = None
    """Bidirectional forwarding detection (RFC 5880): the loss of the router, or of this node, in less than a second.
    Example: `{interval_ms: 300, multiplier: 3}`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.multihop and self.ttl_security:
            raise fault("multihop", "contradicts ttl_security (a directly connected router); give one of them")
        if self.interface and self.multihop:
            raise fault("multihop", f"{self.address} is link-local, so directly connected")
        if self.interface and self.passive:
            raise fault("passive", "ExaBGP cannot listen on a link-local address; let it connect")
        if self.source and not (is_unicast(self.source) or self.source.is_loopback):
            raise fault("source", f"{self.source} cannot be this node's address; give a unicast address")
        if self.source and self.source.version != self.address.version:
            raise fault("source", f"{self.source} is of a different family than {self.address}")
        if self.source and self.interface and not self.source.is_link_local:
            raise fault("source", f"{self.source} is not link-local as {self.address} is")
        for i, family in enumerate(self.families or ()):
            if family in (self.families or ())[:i]:
                where = f"families[{(self.families or ()).index(family)}]"
                raise fault(f"families[{i}]", f"{family} is listed twice", other=where)
        return self

    @property
    def interface(self) -> str | None:
        """The interface of a link-local router; None for other addresses."""
        return self.address.scope_id if isinstance(self.address, IPv6Address) else None

    @property
    def name(self) -> str:
        """The address as ExaBGP writes it: without its interface."""
        return str(self.address).partition("%")[0]

    @property
    def carries(self) -> tuple[Family, ...]:
        """The address families of the session."""
        return self.families or (("ipv4",) if self.address.version == 4 else ("ipv6",))


class BgpConfig(Section):
    """The BGP sessions of this node."""

    local_as: Asn
    """This node's AS number. Example: `65001`."""
    router_id: V4Address | None = None
    """The BGP identifier, by default the node's address. Example: `10.0.0.11`."""
    identity_prefix: IPv4Network
    """A /16 without other use: node 10.0.0.11 announces the low 16 bits of its address there, as a /32. Example:
    `10.254.0.0/16`."""
    peers: Annotated[tuple[PeerConfig, ...], Field(min_length=1)]
    """The routers. Example: `[{address: 10.0.0.1, as: 65000}]`."""
    user: str = USER
    """The system user that ExaBGP runs as. Example: `anylb-bgp`."""
    allow: Annotated[tuple[AnyNetwork, ...], Field(min_length=1)] | None = None
    """The prefixes that announced VIPs must be in, by default exactly the configured VIPs and pools. Example:
    `[192.0.2.0/24]`."""

    @field_validator("identity_prefix")
    @classmethod
    def _identities(cls, value: IPv4Network) -> IPv4Network:
        if value.prefixlen != 16:
            raise fault("", f"{value} is not a /16; a node's tag has 16 bits")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [peer.name for peer in self.peers]
        for i, name in enumerate(names):
            if name in names[:i]:
                alike = self.peers[names.index(name)].address != self.peers[i].address
                why = "; ExaBGP distinguishes neighbors by address only" if alike else ""
                other = f"peers[{names.index(name)}].address"
                raise fault(f"peers[{i}].address", f"{name} is listed twice{why}", other=other)
        if not any("ipv4" in peer.carries for peer in self.peers):
            raise fault("peers", "no peer carries ipv4, which the nodes' identities need; add it to a peer's families")
        for i, network in enumerate(self.allow or ()):
            if isinstance(network, IPv4Network) and network.overlaps(self.identity_prefix):
                raise fault(f"allow[{i}]", f"{network} overlaps identity_prefix, which needs no entry here")
        self._check_passive()
        return self

    def _check_passive(self) -> None:
        # Peers of one source address share a listening socket, and its minimum TTL holds for all of them.
        ttl_security: dict[object, bool] = {}
        for i, peer in enumerate(self.peers):
            place = peer.source or peer.address.version
            if peer.passive and ttl_security.setdefault(place, peer.ttl_security) != peer.ttl_security:
                raise fault(f"peers[{i}].ttl_security", "must be the same for all passive peers of one source address")

    @property
    def carries(self) -> frozenset[str]:
        """The address families that any session carries."""
        return frozenset(family for peer in self.peers for family in peer.carries)
