# SPDX-License-Identifier: Apache-2.0
"""One step of a packet's walk through the cluster, as a node asks another for it: encoded and decoded. Pure.

The request has which packet arrives there, and how. The other node answers what its program would do with it now, and
why: by its chain, its sockets, and the nodes that it cannot reach. All in network order.

    request
     0 which request                    4 protocol as in IP: 6, 17     5 flags: 1 opens a flow, 2 in grace
     6 IP version: 4, 6                 7 hop
     8 address of the node that forwarded the packet; 0 with hop 0
    12 client's port                   14 port of the VIP
    16 client (4 or 16 bytes, then 0)  32 VIP (the same)

    reply
     0 which request                    4 flags: 1 up, 2 grace          5 socket: an index into SOCKETS
     6 hop after the forward            7 length of the chain, at most 8
     8 address of the next node; 0: the walk ends here
    12 epoch of new flows, 0: no tables
    16 bits of the chain's nodes, the first one lowest: 1 byte each for unreachable, silent and awaited nodes
    19 length of the event, 1 to 32
    20 the chain, 4 bytes each; then the event: the name of a counter, or another name of one word, as ASCII

A reader skips what comes after that, so that releases mix.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from agent.address import Address
from agent.model import Flow, LocalSocket

MAX_CHAIN = 8
MAX_EVENT = 32
SOCKETS: Final = tuple(LocalSocket)

_REQUEST = struct.Struct("!IBBBBIHH16s16s")
_REPLY = struct.Struct("!IBBBBIIBBBB")
_OPENS, _IN_GRACE, _UP, _GRACE = 1, 2, 1, 2
_PROTOCOLS = {"tcp": 6, "udp": 17}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A packet that arrives at a node: straight from the router (hop 0, no `prev`), or forwarded by `prev`.

    `number` identifies the request; `opens`: the packet needs no socket (a SYN, any UDP);
    `in_grace`: a row that led it there is in grace.
    """

    number: int
    flow: Flow
    opens: bool
    hop: int = 0
    prev: IPv4Address | None = None
    in_grace: bool = False


@dataclass(frozen=True, slots=True)
class TraceReply:
    """What a node does with that packet, and what it knows.

    `event`: the name of what happens; a packet that is forwarded goes `to` a node with `hop`. `chain`: nodes to try,
    some `unreachable`, `silent` or `awaited`. `up`: the node takes new flows; `grace`: the row has just
    changed; `epoch`: that of new flows, 0 for none.
    """

    number: int
    event: str
    to: IPv4Address | None = None
    hop: int = 0
    chain: tuple[IPv4Address, ...] = ()
    socket: LocalSocket = LocalSocket.NONE
    up: bool = False
    grace: bool = False
    epoch: int = 0
    unreachable: frozenset[IPv4Address] = frozenset()
    silent: frozenset[IPv4Address] = frozenset()
    awaited: frozenset[IPv4Address] = frozenset()


def encode_request(request: TraceRequest) -> bytes:
    """Return the bytes of a request."""
    flow = request.flow
    return _REQUEST.pack(
        request.number, _PROTOCOLS[flow.protocol], _OPENS * request.opens | _IN_GRACE * request.in_grace,
        flow.vip.version, request.hop,
        int(request.prev or 0), flow.client_port, flow.vip_port, flow.client.packed, flow.vip.packed,
    )  # fmt: skip


def decode_request(data: bytes) -> TraceRequest:
    """Return the request in these bytes. Raises ValueError with what is wrong."""
    if len(data) < _REQUEST.size:
        raise ValueError(f"a request has {_REQUEST.size} bytes, this one {len(data)}")
    number, protocol, flags, version, hop, prev, client_port, vip_port, client, vip = _REQUEST.unpack_from(data)
    if protocol not in _PROTOCOL_NAMES:
        raise ValueError(f"protocol {protocol} is not 6 or 17")
    if (prev == 0) != (hop == 0):
        raise ValueError(f"hop {hop}, forwarded by {IPv4Address(prev)}")
    flow = Flow(_PROTOCOL_NAMES[protocol], _address(version, client), client_port, _address(version, vip), vip_port)
    came_by = IPv4Address(prev) if prev else None
    return TraceRequest(number, flow, bool(flags & _OPENS), hop, came_by, bool(flags & _IN_GRACE))


def encode_reply(reply: TraceReply) -> bytes:
    """Return the bytes of a reply. Raises ValueError if a value is out of its bounds."""
    chain, event = reply.chain, reply.event.encode("ascii")
    head = _REPLY.pack(
        reply.number,
        (_UP if reply.up else 0) | (_GRACE if reply.grace else 0),
        SOCKETS.index(reply.socket),
        reply.hop,
        len(chain),
        int(reply.to or 0),
        reply.epoch,
        *(_bits(chain, some) for some in (reply.unreachable, reply.silent, reply.awaited)),
        len(event),
    )
    data = head + b"".join(node.packed for node in chain) + event
    decode_reply(data)
    return data


def decode_reply(data: bytes) -> TraceReply:
    """Return the reply in these bytes. Raises ValueError with what is wrong."""
    if len(data) < _REPLY.size:
        raise ValueError(f"a reply has {_REPLY.size} bytes at least, this one {len(data)}")
    number, flags, socket, hop, length, to, epoch, unreachable, silent, awaited, letters = _REPLY.unpack_from(data)
    if length > MAX_CHAIN or socket >= len(SOCKETS) or not 1 <= letters <= MAX_EVENT:
        raise ValueError(f"a chain of {length}, socket {socket}, an event of {letters} letters")
    if len(data) < _REPLY.size + 4 * length + letters:
        raise ValueError(f"the reply is cut: {len(data)} bytes")
    if (to == 0) != (hop == 0) or (unreachable | silent | awaited) >> length:
        raise ValueError(f"forwarded to {IPv4Address(to)} with hop {hop}, or more nodes than the chain has")
    places = range(_REPLY.size, _REPLY.size + 4 * length, 4)
    chain = tuple(IPv4Address(data[at : at + 4]) for at in places)
    event = data[_REPLY.size + 4 * length :][:letters]
    if len(set(chain)) < length or not event.isascii() or not event.decode("ascii").isidentifier():
        raise ValueError("a node is in the chain twice, or the event is no word")
    return TraceReply(
        number=number,
        event=event.decode("ascii"),
        to=IPv4Address(to) if to else None,
        hop=hop,
        chain=chain,
        socket=SOCKETS[socket],
        up=bool(flags & _UP),
        grace=bool(flags & _GRACE),
        epoch=epoch,
        unreachable=_some(chain, unreachable),
        silent=_some(chain, silent),
        awaited=_some(chain, awaited),
    )


def _address(version: int, data: bytes) -> Address:
    if version == 4 and not any(data[4:]):
        return IPv4Address(data[:4])
    if version == 6:
        return IPv6Address(data)
    raise ValueError(f"{data.hex()} is no address of IP version {version}")


def _bits(chain: Sequence[IPv4Address], some: Collection[IPv4Address]) -> int:
    return sum(1 << place for place, node in enumerate(chain) if node in some)


def _some(chain: Sequence[IPv4Address], bits: int) -> frozenset[IPv4Address]:
    return frozenset(node for place, node in enumerate(chain) if bits >> place & 1)
