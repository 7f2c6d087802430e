# SPDX-License-Identifier: Apache-2.0
"""The schema of lb.yml as a whole, and the values that follow from it. Pure; reading the file is file.py's.

Each section has a module, with the rules within it; the rules between sections are cross_check.py's.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from agent.address import Address, Announced, Network
from agent.config.bgp import AnnounceConfig, BgpConfig
from agent.config.cross_check import Sections
from agent.config.deny import DeniedNetwork
from agent.config.fields import Section, Switch, fault, given, within
from agent.config.members import MembersConfig
from agent.config.metrics import MetricsConfig
from agent.config.nat import NatConfig, PoolConfig, former_pools, former_sessions, resized_pools
from agent.config.node import NodeConfig
from agent.config.service import ServiceConfig
from agent.config.table import TableConfig
from agent.config.xdp import XdpConfig


class Config(Section):
    """The whole of lb.yml."""

    cluster: Annotated[int, Field(strict=True), within(1, 4_294_967_295)]
    """The cluster's number, the same on all its nodes. Identities carry it, so two clusters on one fabric never mix.
    Example: `4242`."""
    node: NodeConfig
    """This node's interfaces and addresses. Example: `{interface: eth1}`."""
    services: Annotated[tuple[ServiceConfig, ...], Field(min_length=1, max_length=250)]  # the data path has 255 slots
    """What is balanced: one entry for each VIP, protocol and port."""
    bgp: BgpConfig
    """The BGP sessions of this node."""
    members: MembersConfig
    """Who may be a node, and how nodes ask each other."""
    xdp: XdpConfig = XdpConfig()
    """How the data path attaches. Example: `{mode: native}`."""
    metrics: MetricsConfig = MetricsConfig()
    """Where Prometheus finds the node's metrics. Example: `{listen: "10.0.0.11:9742"}`."""
    table: TableConfig = TableConfig()
    """What decides which node owns a row: the same on every node."""
    nat: Annotated[NatConfig | None, BeforeValidator(given)] = None
    """NAT for services of `mode: nat`. Without it there is none. Example: `{pool: 10.255.0.0/27}`."""
    deny: tuple[DeniedNetwork, ...] = ()
    """Prefixes whose packets to VIPs are dropped; `lbctl deny` adds to them at run time. One shorter than /8, or
    /16 with IPv6, is refused if it has clients of the internet. Example: `[203.0.113.0/24]`."""
    other_protocols: Literal["pass", "drop"] = "pass"
    """What happens to packets to VIPs that are neither TCP, UDP nor ICMP (ESP, AH, SCTP, GRE): the kernel of the node
    that the router chose gets them, or none does. Example: `drop`."""
    class_e_clients: Switch = False
    """Whether clients may have addresses of 240.0.0.0/4, which are reserved (RFC 1112). Otherwise their packets are
    dropped as martian. Example: `true`."""

    _secret: bytes | None = PrivateAttr(default=None)
    _previous_secret: bytes | None = PrivateAttr(default=None)
    _member_keys: tuple[bytes, ...] = PrivateAttr(default=())

    @field_validator("cluster")
    @classmethod
    def _reserved(cls, value: int) -> int:
        # RFC 8092 section 3: reserved global administrators; the cluster's number is one.
        if value in (65_535, 4_294_967_295):
            raise fault("", f"{value} is reserved by RFC 8092; choose another")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        Sections(
            cluster=self.cluster,
            node=self.node,
            services=self.services,
            bgp=self.bgp,
            members=self.members,
            xdp=self.xdp,
            nat=self.nat,
            previous=self._previous_nat,
            deny=self.deny,
        ).check()
        return self._with_forward_of_nat()

    def _with_forward_of_nat(self) -> Self:
        """Return a copy in which NAT services have the `forward` of all of them, so that who reads it need not ask."""
        if self.nat is None:
            return self
        change = {"forward": self.nat.forward}
        services = tuple(one.model_copy(update=change) if one.mode == "nat" else one for one in self.services)
        return self.model_copy(update={"services": services})

    @property
    def nat_services(self) -> tuple[tuple[int, ServiceConfig], ...]:
        """The services of mode nat, each with its index in `services`."""
        return tuple((i, service) for i, service in enumerate(self.services) if service.mode == "nat")

    @property
    def local_vips(self) -> tuple[Address, ...]:
        """The VIPs that are on lo, where sockets of this node serve them: not those of NAT services alone."""
        return tuple(dict.fromkeys(service.vip for service in self.services if service.mode == "dsr"))

    @property
    def foreign(self) -> tuple[Network, ...]:
        """The prefixes that are announced, but no address of any node: the pools, and VIPs of NAT services alone."""
        vips = (ip_network(vip) for vip in self.vips if vip not in self.local_vips)
        return (*self.pool_prefixes, *vips)

    @property
    def forwards(self) -> frozenset[str]:
        """How packets get from node to node: l2, ipip, gue."""
        return frozenset(service.forward for service in self.services)

    @property
    def vips(self) -> tuple[Address, ...]:
        """Every VIP once, in the file's order."""
        return tuple(dict.fromkeys(service.vip for service in self.services))

    @property
    def pools(self) -> tuple[Network, ...]:
        """The prefixes of NAT: at most one for each family, and the former ones."""
        return (*(self.nat.pools if self.nat else ()), *self.former_pools)

    @property
    def _previous_nat(self) -> PoolConfig | None:
        return self.table.previous.nat if self.table.previous else None

    @property
    def former_pools(self) -> tuple[Network, ...]:
        """The former pools, whose sessions go on: new ones get no address of these once all nodes have the new
        pool."""
        return former_pools(self.nat, self._previous_nat)

    @property
    def resized_pools(self) -> tuple[Network, ...]:
        """The prefixes that the pools had before, if they only became larger or smaller."""
        return resized_pools(self.nat, self._previous_nat)

    @property
    def pool_prefixes(self) -> tuple[Network, ...]:
        """The prefixes of NAT that this node may announce."""
        return (*self.pools, *self.resized_pools)

    @property
    def former_sessions(self) -> int | None:
        """The former number of sessions, if sessions that began with it go on: those of another key do not."""
        number = former_sessions(self.nat, self._previous_nat)
        return number if self.previous_key == self.hash_key else None

    @property
    def session_slots(self) -> int:
        """The slots of sessions that this node has: as many as `nat.sessions`, or as there were."""
        return max(self.nat.sessions if self.nat else 0, self.former_sessions or 0)

    @property
    def allowed(self) -> tuple[Network, ...]:
        """The prefixes that the routes of VIPs must be in."""
        return self.bgp.allow or tuple(ip_network(vip) for vip in self.vips)

    @property
    def announced(self) -> tuple[Announced, ...]:
        """Everything that a node with this configuration may announce besides its identity."""
        return (*self.vips, *self.pool_prefixes)

    def announce_of(self, one: Announced) -> AnnounceConfig:
        """Return the attributes of the routes of a VIP or a pool."""
        if self.nat and isinstance(one, IPv4Network | IPv6Network):
            return self.nat.announce_of(one)
        found = (service.announce for service in self.services if service.vip == one and service.announce)
        return next(found, AnnounceConfig())

    def with_secrets(self, now: bytes | None, previous: bytes | None, members: tuple[bytes, ...]) -> Self:
        """Return a copy with the contents of its key files, 16 bytes a key: the two tables' and the members'."""
        config = self.model_copy()
        config._secret, config._previous_secret, config._member_keys = now, previous, members
        return config

    @property
    def channel_keys(self) -> tuple[bytes, ...]:
        """The keys of what nodes send each other: the first signs, all are accepted. Empty: no other node is accepted.

        With `key: none` it is one that anybody can compute from the cluster's number.
        """
        if self.members.key:
            return (hashlib.sha256(b"anylb public channel key %d" % self.cluster).digest()[:16],)
        return self._member_keys

    @property
    def hash_key(self) -> bytes:
        """The secret of the flow hash, 16 bytes, the same on every node of the cluster."""
        return self._secret or self._derived_key

    @property
    def previous_key(self) -> bytes | None:
        """The secret of the previous epoch's flow hash; None if there is no previous epoch."""
        if self.table.previous is None:
            return None
        if "key_file" not in self.table.previous.model_fields_set:
            return self.hash_key
        return self._previous_secret or self._derived_key

    @property
    def _derived_key(self) -> bytes:
        return hashlib.sha256(b"anylb flow hash %d" % self.cluster).digest()[:16]
