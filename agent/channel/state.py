# SPDX-License-Identifier: Apache-2.0
"""A node's own account of itself, as the channel carries it: encoded and decoded. Pure.

A sequence of type-length-value fields, in network order:

     0         1                   3
    +---------+-------------------+----------------------------- - -
    | type    | length of value   | value
    +---------+-------------------+----------------------------- - -

    type           value
    1 NODE         boot (64 bits), version (64 bits), flags (8 bits: 1 ready, 2 reads claims,
                       4 gives an overview); once
    2 RELEASE      the release as printable UTF-8, at most 64 bytes; at most once
    3 EPOCHS       the supported epochs (32 bits each), the preferred one first, 1 to 8; once
    4 SERVICES_4   services with an IPv4 VIP, 12 bytes each; at most once
    5 SERVICES_6   services with an IPv6 VIP, 24 bytes each; at most once
    6 UNREACHABLE  the addresses of nodes that do not answer this one (32 bits each), at most 64; at most once
    7, 8, 9        NAT, backends: nat_state.py

     0               1               2               3
    +---------------------------------------------------------------+
    | VIP: 4 or 16 bytes                                            |
    +-------------------------------+---------------+---------------+
    | port, 0: any                  | protocol      |A|    state    |   protocol as in IP: 6, 17; A: announced;
    +-------------------------------+---------------+---------------+   state: 1 up, 2 draining, 3 left
    | weight                        | effective weight              |
    +-------------------------------+-------------------------------+

A reader skips unknown types, so that releases mix. It refuses unknown values of a known type: what a later release adds
gets a type of its own.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import NamedTuple

from agent.address import Address, endpoint
from agent.channel import nat_state
from agent.channel.field import STATE_OF, STATES, check_weights, distinct, records
from agent.channel.nat_state import NatState
from agent.model import State

MAX_SERVICES = 1024
"""With VIPs of one family."""
MAX_EPOCHS = 8
MAX_UNREACHABLE = 64
MAX_RELEASE_BYTES = 64
_MAX_PORT = 0xFFFF

_FIELD = struct.Struct("!BH")
_NODE = struct.Struct("!QQB")
_READY, _READS_CLAIMS, _GIVES_OVERVIEW = 1, 2, 4
_SERVICE_4 = struct.Struct("!4sHBBHH")
_SERVICE_6 = struct.Struct("!16sHBBHH")
_NUMBER = struct.Struct("!I")
_ANNOUNCED = 0x80
_PROTOCOLS = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}


class _Type(enum.IntEnum):
    NODE = 1
    RELEASE = 2
    EPOCHS = 3
    SERVICES_4 = 4
    SERVICES_6 = 5
    UNREACHABLE = 6
    NAT = nat_state.NAT
    BACKENDS = nat_state.BACKENDS
    DRAINS = nat_state.DRAINS


class ServiceEndpoint(NamedTuple):
    """Where a service is: the same on every node. `protocol`: tcp or udp; `port`: 0 for any."""

    vip: Address
    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{endpoint(self.vip, self.port or 'any')}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class StateShare:
    """A node's share of one service: the nominal weight, the effective one (0 to nominal), the state, and whether the
    routers really have the VIP's route from this node."""

    weight: int
    effective: int
    state: State
    announced: bool


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node publishes of itself.

    `boot`: a number of its kernel's boot; `version` grows with each change; `ready`: its tables come from a whole view;
    `epochs`: those that it supports, the preferred one first; `unreachable`: the nodes that do not answer it;
    `reads_claims`: it puts the claims of others into its rows, if it has rows; `nat`: None on a node without NAT;
    `gives_overview`: it answers requests for one (overview.py), which releases before 0.2.0 skip.
    """

    boot: int
    version: int
    release: str
    ready: bool
    epochs: tuple[int, ...]
    shares: Mapping[ServiceEndpoint, StateShare] = field(default_factory=dict)
    unreachable: tuple[IPv4Address, ...] = ()
    reads_claims: bool = False
    nat: NatState | None = None
    gives_overview: bool = False


def encode(state: NodeState) -> bytes:
    """Return the bytes of a state, equal for equal states. Raises ValueError if a value is out of its bounds."""
    for name, number in (("boot", state.boot), ("version", state.version)):
        if not 0 <= number < 1 << 64:
            raise ValueError(f"{name} {number} is not a number of 64 bits")
    for epoch in state.epochs:
        if not 0 <= epoch < 1 << 32:
            raise ValueError(f"epoch {epoch} is not a number of 32 bits")
    shares = sorted(state.shares.items(), key=lambda item: (item[0].vip.packed, item[0].protocol, item[0].port))
    fields: list[tuple[int, bytes]] = [
        (_Type.NODE, _NODE.pack(state.boot, state.version, _flags(state))),
        (_Type.RELEASE, state.release.encode()),
        (_Type.EPOCHS, b"".join(map(_NUMBER.pack, state.epochs))),
        (_Type.SERVICES_4, b"".join(_pack(_SERVICE_4, key, share) for key, share in shares if key.vip.version == 4)),
        (_Type.SERVICES_6, b"".join(_pack(_SERVICE_6, key, share) for key, share in shares if key.vip.version == 6)),
        (_Type.UNREACHABLE, pack_addresses(state.unreachable)),
        *nat_state.pack(state.nat),
    ]
    data = b"".join(_FIELD.pack(kind, len(value)) + value for kind, value in fields if value)
    decode(data)  # the rest of the bounds
    return data


def decode(data: bytes) -> NodeState:
    """Return the state in these bytes. Raises ValueError with what is wrong."""
    values = dict(_fields(data))
    node, epochs = values.get(_Type.NODE), values.get(_Type.EPOCHS)
    if not node or not epochs:
        raise ValueError(f"{'EPOCHS' if node else 'NODE'} is empty or missing")
    if len(node) != _NODE.size:
        raise ValueError(f"NODE has {len(node)} bytes, not {_NODE.size}")
    boot, version, flags = _NODE.unpack(node)
    return NodeState(
        boot=boot,
        version=version,
        release=_release(values.get(_Type.RELEASE, b"")),
        ready=bool(flags & _READY),
        epochs=distinct("epoch", (number for (number,) in records("EPOCHS", epochs, _NUMBER, MAX_EPOCHS))),
        shares=_services(values.get(_Type.SERVICES_4, b""), values.get(_Type.SERVICES_6, b"")),
        unreachable=_unreachable(values.get(_Type.UNREACHABLE, b"")),
        reads_claims=bool(flags & _READS_CLAIMS),
        nat=nat_state.unpack(values.get(_Type.NAT), values.get(_Type.BACKENDS, b""), values.get(_Type.DRAINS, b"")),
        gives_overview=bool(flags & _GIVES_OVERVIEW),
    )


def _flags(state: NodeState) -> int:
    flags = {_READY: state.ready, _READS_CLAIMS: state.reads_claims, _GIVES_OVERVIEW: state.gives_overview}
    return sum(flag for flag, on in flags.items() if on)


def pack_addresses(addresses: Iterable[IPv4Address]) -> bytes:
    """Return a list of addresses, 4 bytes each."""
    return b"".join(address.packed for address in addresses)


def unpack_addresses(data: bytes) -> tuple[IPv4Address, ...]:
    """Return the addresses of such a list. Raises ValueError if it is cut, too long, or has one twice."""
    numbers = (number for (number,) in records("the list of addresses", data, _NUMBER, MAX_UNREACHABLE))
    return distinct("address", map(IPv4Address, numbers))


def _fields(data: bytes) -> Iterator[tuple[_Type, bytes]]:
    seen: set[int] = set()
    at = 0
    while at < len(data):
        if len(data) - at < _FIELD.size:
            raise ValueError(f"the field at byte {at} is cut")
        kind, length = _FIELD.unpack_from(data, at)
        at += _FIELD.size
        if length > len(data) - at:
            raise ValueError(f"the field of type {kind} is cut: {len(data) - at} of {length} bytes")
        if kind in _Type._value2member_map_:
            if kind in seen:
                raise ValueError(f"{_Type(kind).name} is there twice")
            seen.add(kind)
            yield _Type(kind), data[at : at + length]
        at += length


def _release(data: bytes) -> str:
    if len(data) > MAX_RELEASE_BYTES:
        raise ValueError(f"the release has {len(data)} bytes, more than {MAX_RELEASE_BYTES}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("the release is not UTF-8") from None
    if not text.isprintable():
        raise ValueError("the release is not printable")
    return text


def _pack(form: struct.Struct, key: ServiceEndpoint, share: StateShare) -> bytes:
    if key.protocol not in _PROTOCOLS:
        raise ValueError(f"{key}: protocol {key.protocol} is not tcp or udp")
    if not 0 <= key.port <= _MAX_PORT:
        raise ValueError(f"{key}: the port is not in 0-{_MAX_PORT}")
    if share.state not in STATES:
        raise ValueError(f"{key}: no node is {share.state} by its own account")
    check_weights(key, share.weight, share.effective)
    state = STATES[share.state] | (_ANNOUNCED if share.announced else 0)
    return form.pack(key.vip.packed, key.port, _PROTOCOLS[key.protocol], state, share.weight, share.effective)


# If many nodes are gone, most of the others list the same, and share one tuple.
_unreachable = functools.lru_cache(maxsize=64)(unpack_addresses)


# Most nodes serve the same with the same weights, and share one mapping.
@functools.lru_cache(maxsize=64)
def _services(ipv4: bytes, ipv6: bytes) -> Mapping[ServiceEndpoint, StateShare]:
    found: dict[ServiceEndpoint, StateShare] = {}
    _unpack(found, _Type.SERVICES_4, ipv4, _SERVICE_4, IPv4Address)
    _unpack(found, _Type.SERVICES_6, ipv6, _SERVICE_6, IPv6Address)
    return MappingProxyType(found)


def _unpack(
    found: dict[ServiceEndpoint, StateShare],
    kind: _Type,
    data: bytes,
    form: struct.Struct,
    address: Callable[[bytes], Address],
) -> None:
    for vip, port, protocol, state, weight, effective in records(kind.name, data, form, MAX_SERVICES):
        if protocol not in _PROTOCOL_NAMES:
            raise ValueError(f"{endpoint(address(vip), port)}: protocol {protocol} is not 6 or 17")
        key = ServiceEndpoint(address(vip), _PROTOCOL_NAMES[protocol], port)
        if key in found:
            raise ValueError(f"{key} is there twice")
        if state & ~_ANNOUNCED not in STATE_OF:
            raise ValueError(f"{key}: state {state & ~_ANNOUNCED} is not in 1-{len(STATE_OF)}")
        check_weights(key, weight, effective)
        found[key] = StateShare(weight, effective, STATE_OF[state & ~_ANNOUNCED], bool(state & _ANNOUNCED))
