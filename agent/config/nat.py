# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `nat:` and `services[].backends`. Owns the schema, the rules within it, and those between the pool and all
other addresses; which keys a NAT service takes is service.py's.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent.address import Network
from agent.config.bgp import AnnounceConfig
from agent.config.fields import Port, Section, UnicastAddress, Weight, as_network, fault, within

MAX_BACKENDS: Final = 4095
"""Of all services together: the entries of the data path's map, whose first means none."""
MAX_BACKENDS_OF_SERVICE: Final = 256
"""The entries of a service's choice table."""
PORTS: Final = 1 << 15
"""The sessions of one pool address: ports 0x8000 to 0xffff. Lower ports are never used."""
DEFAULT_SESSIONS: Final = 1 << 20

Balance = Literal["hash", "round_robin", "least_connections", "weighted"]
OnDown = Literal["reset", "keep"]

_NOT_UNICAST: tuple[Network, ...] = (
    *map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")),
    *map(IPv6Network, ("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8")),
)


def _pool(value: object, version: int) -> Network:
    network = as_network(value)
    if network.version != version:
        raise fault("", f"{network} is not an IPv{version} network")
    if wrong := next((one for one in _NOT_UNICAST if one.version == version and network.overlaps(one)), None):
        raise fault("", f"{network} overlaps {wrong}, whose addresses are not unicast; give a private prefix")
    return network


def _power_of_two(sessions: int) -> int:
    if sessions & (sessions - 1):
        raise fault("", f"{sessions} is not a power of two; give {1 << sessions.bit_length()}")
    return sessions


Sessions = Annotated[int, Field(strict=True), within(1 << 16, 1 << 24), AfterValidator(_power_of_two)]
Pool = Annotated[IPv4Network, BeforeValidator(lambda value: _pool(value, 4))]
Pool6 = Annotated[IPv6Network, BeforeValidator(lambda value: _pool(value, 6))]


class BackendConfig(Section):
    """A server of a NAT service, which runs no agent and has no VIP."""

    address: UnicastAddress
    """The server's own address, of the VIP's family. Example: `10.9.0.11`."""
    port: Port
    """The server's port. Example: `8443`."""
    weight: Weight = 100
    """Its share of new sessions, relative to other backends' weights; 0: none. Example: `50`."""


class PoolConfig(Section):
    """The addresses that backends see as clients, a prefix for each family, and how many sessions they are for.

    A session has one address and port of the pool, so that an answer names its session.
    """

    pool: Pool | None = None
    """The IPv4 addresses that backends see as clients. They are announced, and have no other use. Example:
    `10.255.0.0/27`."""
    pool6: Pool6 | None = None
    """The same for IPv6. Example: `fd00:255::/123`."""
    sessions: Sessions = DEFAULT_SESSIONS
    """How many sessions the whole cluster has room for: a power of two. Each takes one address and port of the pool, 72
    bytes on each node. Sessions survive another number if `table.previous.nat` has the former one. Example:
    `65536`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.pools:
            raise fault("pool", "is missing; give a private prefix, as 10.255.0.0/27, or pool6 for IPv6 alone")
        needed = self.sessions // PORTS
        for name, pool in self.named_pools:
            if pool.num_addresses < needed:
                longest = pool.max_prefixlen - needed.bit_length() + 1
                few = f"{pool} has {pool.num_addresses} {'address' if pool.num_addresses == 1 else 'addresses'}"
                fewer = pool.num_addresses * PORTS
                lower = f", or lower sessions to {fewer}" if fewer >= 1 << 16 else ""
                raise fault(name, f"{few}, and {self.sessions} sessions need {needed}; give a /{longest}{lower}")
        return self

    @property
    def named_pools(self) -> tuple[tuple[str, Network], ...]:
        """The given pools, each with its key."""
        both = (("pool", self.pool), ("pool6", self.pool6))
        return tuple((name, pool) for name, pool in both if pool is not None)

    @property
    def pools(self) -> tuple[Network, ...]:
        """The prefixes to announce, at most one for each family."""
        return tuple(pool for _, pool in self.named_pools)

    def pool_of(self, version: int) -> Network | None:
        """Return the pool of an IP version."""
        return self.pool if version == 4 else self.pool6


def used_part(pool: Network, sessions: int) -> Network:
    """Return the addresses of a pool that so many sessions use: the first ones."""
    bits = (sessions // PORTS).bit_length() - 1
    return type(pool)((pool.network_address, pool.max_prefixlen - bits))


def former_pools(now: PoolConfig | None, previous: PoolConfig | None) -> tuple[Network, ...]:
    """Return the former pools whose sessions go on: those with other addresses, for as many sessions as now. A
    session is a slot of maps that have one size; a family without a pool has no more maps."""
    if now is None or previous is None or now.sessions != previous.sessions:
        return ()
    pairs = ((pool, now.pool_of(pool.version)) for pool in previous.pools)
    return tuple(pool for pool, new in pairs if new is not None and pool[0] != new[0])


def resized_pools(now: PoolConfig | None, previous: PoolConfig | None) -> tuple[Network, ...]:
    """Return the prefixes that pools with the same first addresses had before."""
    if now is None or previous is None:
        return ()
    pairs = ((pool, now.pool_of(pool.version)) for pool in previous.pools)
    return tuple(pool for pool, new in pairs if new is not None and pool[0] == new[0] and pool != new)


def former_sessions(now: PoolConfig | None, previous: PoolConfig | None) -> int | None:
    """Return the former number of sessions, if it is another one and its sessions go on: those that have the same
    first address. The number is a part of no address, but where a session is among the others follows from it."""
    if now is None or previous is None or now.sessions == previous.sessions:
        return None
    same = {pool[0] for pool in now.pools} == {pool[0] for pool in previous.pools}
    return previous.sessions if same else None


class NatConfig(PoolConfig):
    """NAT on this node, for the sessions of services of `mode: nat`."""

    weight: Weight = 100
    """This node's share of all sessions; 0: it does no NAT. Example: `50`."""
    forward: Literal["l2", "ipip", "gue"] = "gue"
    """How packets of sessions, and answers to them, reach the node that has the session. Example: `ipip`."""
    announce: AnnounceConfig | None = None
    """Attributes of the pools' routes; a next hop is for one family. Example: `{med: 50}`."""

    @model_validator(mode="after")
    def _check_next_hop(self) -> Self:
        hop = self.announce.next_hop if self.announce else None
        if hop is not None and self.pool_of(hop.version) is None:
            raise fault("announce.next_hop", f"{hop} is of a family without a pool; remove it, or add the pool")
        return self

    def announce_of(self, pool: Network) -> AnnounceConfig:
        """Return the attributes of the route to a pool."""
        announce = self.announce or AnnounceConfig()
        if announce.next_hop is None or announce.next_hop.version == pool.version:
            return announce
        return announce.model_copy(update={"next_hop": None})


def require_room(where: str, nat: PoolConfig, sessions: int) -> None:
    """Raise the error of a pool without the addresses of the former sessions, which are served until they end."""
    for name, pool in nat.named_pools:
        if pool.num_addresses < sessions // PORTS:
            longest = pool.max_prefixlen - (sessions // PORTS).bit_length() + 1
            why = f"{pool} is too small for the {sessions} former sessions; leave it a /{longest} until these ended"
            raise fault(f"{where}.{name}", why, other="table.previous.nat.sessions")


class Taken(NamedTuple):
    """A prefix that the pool must not overlap: its place in the file, and what is there ("a VIP")."""

    place: str
    network: Network
    what: str


def check_pools(where: str, nat: PoolConfig, taken: Iterable[Taken]) -> None:
    """Raise the error of the first pool that overlaps a prefix of other use: a packet to it has one meaning. `where` is
    the place of `nat` in the file."""
    for place, network, what in taken:
        for name, pool in nat.named_pools:
            if pool.version == network.version and pool.overlaps(network):
                named = network if network.num_addresses > 1 else network.network_address
                why = f"{pool} overlaps {named}, {what}; give a prefix that has no other use"
                raise fault(f"{where}.{name}", why, other=place)
