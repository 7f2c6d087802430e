# SPDX-License-Identifier: Apache-2.0
"""A node's identity, encoded as large communities of its identity prefix.

Owns the wire format only: the agent decides which identities count and what follows from a state.

    RFC 8092 section 3: a large community is three numbers of 32 bits

    +----------------------+------------------------+----------------------------------------------+
    | global administrator | local data 1           | local data 2                                 |
    +----------------------+------------------------+----------------------------------------------+
    | cluster              | 1 << 28                | IPv4 address of the node                     |
    | cluster              | 2 << 28                | epoch                                        |
    | cluster              | 3 << 28 | service id   | state << 28 | nominal << 14 | effective      |
    | cluster              | 4 << 28 ... 7 << 28    | IPv6 address of the node, 32 bits each, or   |
    |                      |                        | none of the four                             |
    | cluster              | 8 << 28                | version, absent when 0                       |
    | cluster              | 9 << 28 | 0, 1, ...    | further epochs that the node supports        |
    | cluster              | 10 << 28 | service id  | 1: the VIP is not announced to the routers;  |
    |                      |                        | absent when it is, or when that is unknown   |
    +----------------------+------------------------+----------------------------------------------+

The version only grows (agent/membership/identity_version.py): of two identities of one node, the higher version is
newer.

A reader skips unknown types, and services in an unknown state, so that a later release can add both.

Standard library only: the relay archive carries this file.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bgp.errors import BgpError
from bgp.route import LargeCommunity

MAX_WEIGHT = 10_000
SERVICE_ID_BITS = 28
_PROTOCOLS = {"tcp": 6, "udp": 17}
# RFC 8092 section 3: these values of the global administrator should not be used.
_RESERVED_CLUSTERS = frozenset({0, 65535, 0xFFFFFFFF})
_WEIGHT_BITS = 14
_WEIGHT_MASK = (1 << _WEIGHT_BITS) - 1


class _Type(enum.IntEnum):
    ADDRESS = 1
    EPOCH = 2
    SERVICE = 3
    ADDRESS_6 = 4
    """The first of four types: 32 bits each."""
    VERSION = 8
    FURTHER_EPOCH = 9
    NOT_ANNOUNCED = 10


_STATES = {"up": 1, "draining": 2, "left": 3}
_STATE_NAMES = {number: name for name, number in _STATES.items()}


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service of a node: weights in 0-10000, `state` one of up, draining, left."""

    nominal: int
    effective: int
    state: str
    announced: bool = True
    """False: the node does not announce the service's VIP to the routers."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of one node.

    `services` is keyed by `service_id`. The node prefers `epoch` and also supports each of `epochs`.
    """

    cluster: int
    address: ipaddress.IPv4Address
    epoch: int
    services: Mapping[int, ServiceState] = field(default_factory=dict)
    address6: ipaddress.IPv6Address | None = None
    version: int = 0
    epochs: tuple[int, ...] = ()


def service_id(vip: ipaddress.IPv4Address | ipaddress.IPv6Address, protocol: str, port: int) -> int:
    """Return the 28-bit id of a service, the same on every node; port 0 is any port.

    The id is a hash, so nodes need not agree on numbers. The configuration must refuse two services that share an id
    (with 100 services: 1 in 50,000).
    """
    if protocol not in _PROTOCOLS:
        raise BgpError(f"service: protocol {protocol!r} is not tcp or udp")
    if not 0 <= port < 1 << 16:
        raise BgpError(f"service: port {port} is not in 0-65535")
    key = vip.packed + bytes([_PROTOCOLS[protocol]]) + port.to_bytes(2, "big")
    digest = hashlib.blake2s(key, digest_size=4, person=b"anylbsvc").digest()
    return int.from_bytes(digest, "big") >> (32 - SERVICE_ID_BITS)


def encode(identity: Identity) -> tuple[LargeCommunity, ...]:
    """Return the communities, sorted; BgpError if a field is out of range."""
    cluster = identity.cluster
    if not 0 < cluster < 1 << 32 or cluster in _RESERVED_CLUSTERS:
        raise BgpError(f"identity: cluster {cluster} is not in 1-4294967294, or is 65535, which RFC 8092 reserves")
    for epoch in (identity.epoch, *identity.epochs):
        if not 0 <= epoch < 1 << 32:
            raise BgpError(f"identity: epoch {epoch} is not a number of 32 bits")
    if not 0 <= identity.version < 1 << 32:
        raise BgpError(f"identity: version {identity.version} is not a number of 32 bits")
    communities = [
        (cluster, _Type.ADDRESS << SERVICE_ID_BITS, int(identity.address)),
        (cluster, _Type.EPOCH << SERVICE_ID_BITS, identity.epoch),
        *((cluster, _Type.FURTHER_EPOCH << SERVICE_ID_BITS | i, epoch) for i, epoch in enumerate(identity.epochs)),
    ]
    if identity.address6 is not None:
        communities += [
            (cluster, (_Type.ADDRESS_6 + i) << SERVICE_ID_BITS, part)
            for i, part in enumerate(struct.unpack("!4I", identity.address6.packed))
        ]
    if identity.version:
        communities.append((cluster, _Type.VERSION << SERVICE_ID_BITS, identity.version))
    for number, service in identity.services.items():
        if not 0 <= number < 1 << SERVICE_ID_BITS:
            raise BgpError(f"identity: service id {number} is not a number of {SERVICE_ID_BITS} bits")
        communities.append((cluster, _Type.SERVICE << SERVICE_ID_BITS | number, _pack(service)))
        if not service.announced:
            communities.append((cluster, _Type.NOT_ANNOUNCED << SERVICE_ID_BITS | number, 1))
    return tuple(sorted((int(a), int(b), int(c)) for a, b, c in communities))


def decode(communities: Iterable[LargeCommunity], cluster: int) -> Identity | None:
    """Return the identity that a route's communities carry for this cluster; None if none, or a malformed one."""
    found = _parse(tuple(communities), cluster)
    return found if isinstance(found, Identity) else None


def problem(communities: Iterable[LargeCommunity], cluster: int) -> str | None:
    """Return why `decode` refused this cluster's communities; None if it accepted them, or there are none."""
    found = _parse(tuple(communities), cluster)
    return found if isinstance(found, str) else None


# Several routers advertise the same identities, and the relay decodes all each second while its agent is silent.
@functools.lru_cache(maxsize=4096)
def _parse(communities: tuple[LargeCommunity, ...], cluster: int) -> Identity | str | None:
    values: dict[tuple[int, int], int] = {}
    for administrator, key, value in communities:
        if administrator != cluster:
            continue
        kind_and_number = (key >> SERVICE_ID_BITS, key & ((1 << SERVICE_ID_BITS) - 1))
        if values.setdefault(kind_and_number, value) != value:
            return f"identity: {administrator}:{key} appears twice, as {values[kind_and_number]} and as {value}"
    if not values:
        return None
    address, epoch = values.get((_Type.ADDRESS, 0)), values.get((_Type.EPOCH, 0))
    if address is None or epoch is None:
        return f"identity: cluster {cluster} without {'an address' if address is None else 'an epoch'}"
    keys = [(_Type.ADDRESS_6 + i, 0) for i in range(4)]
    parts = [values[key] for key in keys if key in values]
    if len(parts) not in (0, 4):
        return f"identity: cluster {cluster} with {len(parts)} of the 4 parts of an IPv6 address"
    address6 = ipaddress.IPv6Address(struct.pack("!4I", *parts)) if parts else None
    services: dict[int, ServiceState] = {}
    for (kind, number), value in values.items():
        if kind == _Type.SERVICE:
            service = _unpack(value)
            if isinstance(service, str):
                return f"identity: service {number}: {service}"
            if service is not None:
                services[number] = replace(service, announced=values.get((_Type.NOT_ANNOUNCED, number)) != 1)
    version = values.get((_Type.VERSION, 0), 0)
    epochs = tuple(value for (kind, _), value in sorted(values.items()) if kind == _Type.FURTHER_EPOCH)
    return Identity(cluster, ipaddress.IPv4Address(address), epoch, services, address6, version, epochs)


def _pack(service: ServiceState) -> int:
    for name, weight in (("nominal", service.nominal), ("effective", service.effective)):
        if not 0 <= weight <= MAX_WEIGHT:
            raise BgpError(f"identity: {name} weight {weight} is not in 0-{MAX_WEIGHT}")
    if service.state not in _STATES:
        raise BgpError(f"identity: state {service.state!r} is not one of {', '.join(_STATES)}")
    return _STATES[service.state] << SERVICE_ID_BITS | service.nominal << _WEIGHT_BITS | service.effective


def _unpack(value: int) -> ServiceState | str | None:
    state = _STATE_NAMES.get(value >> SERVICE_ID_BITS)
    nominal, effective = value >> _WEIGHT_BITS & _WEIGHT_MASK, value & _WEIGHT_MASK
    if state is None:
        return None
    if max(nominal, effective) > MAX_WEIGHT:
        return f"weight {max(nominal, effective)} is above {MAX_WEIGHT}"
    return ServiceState(nominal, effective, state)
