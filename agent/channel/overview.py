# SPDX-License-Identifier: Apache-2.0
"""A node in a few figures, as another node asks for it for `lbctl cluster`: encoded and decoded. Pure.

All in network order.

    request
     0 which request

    reply
     0 which request                    4 flags: 1 ready, 2 XDP attached, 4 speaks to its BGP relay, 8 has counts of TCP
     5 state: 1 up, 2 draining, 3 left  6 verdict of `lbctl check`: an index into VERDICTS     7 0
     8 when the counters were read: CLOCK_MONOTONIC of that node, 64 bits of ns
    16 epoch of new flows               20 digest of its view         24 digest of its tables
    28 services: healthy, all           32 VIPs: announced, all       36 BGP sessions: up, configured  (16 bits each)
    40 how many faults (16 bits)        42 length of the first fault's text, at most 400 (16 bits)
    44 the counters of Load, 64 bits each
    92 the first fault's text as UTF-8
       the kernel's counts of TCP, if it has them: connections accepted, resets sent (64 bits each)

A reader skips what comes after that, so that releases mix. A node that answers publishes that it does (state.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.channel.field import STATE_OF, STATES
from agent.model import State

MAX_FAULT_BYTES: Final = 400
VERDICTS: Final = ("ok", "warning", "critical")
MAX_COUNT: Final = 0xFFFF

_REQUEST = struct.Struct("!I")
_REPLY = struct.Struct("!IBBBxQ3I8H")
_READY, _ATTACHED, _RELAY, _HAS_TCP = 1, 2, 4, 8


class Count(NamedTuple):
    """How many of a kind are well, of how many."""

    well: int = 0
    all: int = 0


NONE: Final = Count()


class Load(NamedTuple):
    """What a node's data path did with the packets of its services, since its program was attached.

    From routers and from other nodes, forwarded and dropped: packets; `new`: connections that it took; `held`: those
    that it holds, NAT's sessions included, as of the last count.
    """

    from_routers: int = 0
    from_nodes: int = 0
    new: int = 0
    forwarded: int = 0
    dropped: int = 0
    held: int = 0


_LOAD = struct.Struct(f"!{len(Load._fields)}Q")
_TEXT_AT = _REPLY.size + _LOAD.size


class Tcp(NamedTuple):
    """What the kernel of a node did with TCP since it started: connections accepted, and RST segments sent."""

    accepted: int
    resets: int


_TCP = struct.Struct("!2Q")


@dataclass(frozen=True, slots=True)
class Overview:
    """A node by its own account. `read_ns` is when its counters were read, by its own CLOCK_MONOTONIC."""

    number: int
    state: State
    verdict: str
    read_ns: int
    ready: bool = False
    attached: bool = False
    relay: bool = False
    epoch: int = 0
    view_digest: int = 0
    tables_digest: int = 0
    services: Count = NONE
    vips: Count = NONE
    sessions: Count = NONE
    faults: int = 0
    first_fault: str = ""
    load: Load = field(default_factory=Load)
    tcp: Tcp | None = None
    """None if its kernel does not count them, or its release is one before they were in an overview."""


def encode_request(number: int) -> bytes:
    """Return the bytes of a request."""
    return _REQUEST.pack(number)


def decode_request(data: bytes) -> int:
    """Return the number of the request in these bytes. Raises ValueError if they are cut."""
    if len(data) < _REQUEST.size:
        raise ValueError(f"a request has {_REQUEST.size} bytes, this one {len(data)}")
    return int(_REQUEST.unpack_from(data)[0])


def encode_reply(one: Overview) -> bytes:
    """Return the bytes of a reply; the text is cut to fit. Raises ValueError if a value is out of its bounds."""
    text = one.first_fault.encode()[:MAX_FAULT_BYTES].decode(errors="ignore").encode()
    flags = _READY * one.ready | _ATTACHED * one.attached | _RELAY * one.relay | _HAS_TCP * (one.tcp is not None)
    counts = [min(count, MAX_COUNT) for count in (*one.services, *one.vips, *one.sessions, one.faults)]
    try:
        head = _REPLY.pack(
            one.number, flags, STATES[one.state], VERDICTS.index(one.verdict),
            one.read_ns, one.epoch, one.view_digest, one.tables_digest, *counts, len(text),
        )  # fmt: skip
        data = head + _LOAD.pack(*one.load) + text + (b"" if one.tcp is None else _TCP.pack(*one.tcp))
    except (struct.error, KeyError) as error:
        raise ValueError(f"no overview: {error}") from None
    decode_reply(data)
    return data


def decode_reply(data: bytes) -> Overview:
    """Return the overview in these bytes. Raises ValueError with what is wrong."""
    if len(data) < _TEXT_AT:
        raise ValueError(f"a reply has {_TEXT_AT} bytes at least, this one {len(data)}")
    number, flags, state, verdict, read_ns, epoch, view, tables, *counts, length = _REPLY.unpack_from(data)
    if state not in STATE_OF or verdict >= len(VERDICTS):
        raise ValueError(f"state {state} or verdict {verdict} is unknown")
    end, has_tcp = _TEXT_AT + length, bool(flags & _HAS_TCP)
    if length > MAX_FAULT_BYTES or len(data) < end + has_tcp * _TCP.size:
        raise ValueError(f"a text of {length} bytes in a reply of {len(data)}")
    services, vips, sessions = (Count(*counts[at : at + 2]) for at in (0, 2, 4))
    if any(count.well > count.all for count in (services, vips, sessions)):
        raise ValueError("more are well than there are")
    return Overview(
        number=number,
        state=STATE_OF[state],
        verdict=VERDICTS[verdict],
        read_ns=read_ns,
        ready=bool(flags & _READY),
        attached=bool(flags & _ATTACHED),
        relay=bool(flags & _RELAY),
        epoch=epoch,
        view_digest=view,
        tables_digest=tables,
        services=services,
        vips=vips,
        sessions=sessions,
        faults=counts[6],
        first_fault=data[_TEXT_AT:end].decode(),
        load=Load(*_LOAD.unpack_from(data, _REPLY.size)),
        tcp=Tcp(*_TCP.unpack_from(data, end)) if has_tcp else None,
    )
