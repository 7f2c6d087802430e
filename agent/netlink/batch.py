# SPDX-License-Identifier: Apache-2.0
"""Requests to rtnetlink about many neighbors and routes at once, many in a datagram. I/O only.

pyroute2 takes 0.2 ms of CPU time for one such request, and a node that follows 1,000 others makes hundreds per second;
here it is some 10 us. The kernel handles all requests of a datagram within send(), and queues its answers, so none of
these functions waits. Each opens a socket of its own: an error leaves no state behind. All raise OSError for what the
kernel refuses, unless they document otherwise.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from agent.address import Address, Network
from agent.netlink.interface_address import InterfaceAddress, addresses_request, interface_address_from
from agent.netlink.message import NLMSG_DONE, NLMSG_ERROR, Message, Request, error_code, messages, pack
from agent.netlink.neighbor import (
    Neighbor,
    NeighborEntry,
    confirm_request,
    neighbor_from,
    neighbor_request,
    probe_request,
)
from agent.netlink.route import KernelRoute, Leg, legs_of, route_from, route_request

DATAGRAM: Final = 64
"""Requests in a datagram. Each answer takes about 1 KB of the socket's receive buffer, of 208 KB by default."""
_DATAGRAM_BYTES: Final = 1 << 16
_NO_ROUTE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES)
"""The kernel's answers for no route, and for unreachable, blackhole and prohibit routes."""
Packet = tuple[Address, Address]
"""Source and destination."""
_GONE: Final = (errno.ENODEV, errno.ENETDOWN, errno.EINVAL, errno.EAFNOSUPPORT)
"""The interface disappeared or went down after its index was read."""
WORLD: Final = {4: ip_address("203.0.113.1"), 6: ip_address("3fff::1")}
"""Documentation addresses (RFC 5737, RFC 9637), by IP version: only the default route leads to them."""


def sample(prefix: Network) -> Address:
    """Return an address of a prefix, to look up the route to it."""
    return WORLD[prefix.version] if prefix.prefixlen == 0 else prefix[min(1, prefix.num_addresses - 1)]


def confirm(neighbors: Iterable[Neighbor]) -> set[Neighbor]:
    """Make the kernel resolve these neighbors, or confirm what it knows: XDP's own traffic would not.

    Return those for which it has no room (ENOBUFS, of which it writes to its own log). What it refuses for one neighbor
    stops no other.
    """
    asked = list(neighbors)
    _, errors = _answers([confirm_request(one) for one in asked], None)
    return {asked[i] for i, code in errors.items() if code == errno.ENOBUFS}


def probe(neighbors: Iterable[Neighbor]) -> None:
    """Make the kernel solicit these neighbors at once, whose MACs are known. What it refuses is left out."""
    _answers([probe_request(one) for one in neighbors], None)


def neighbors(wanted: Iterable[Neighbor]) -> list[NeighborEntry]:
    """Return the kernel's entries of these neighbors; none of one that it does not have."""
    answers, _ = _answers([neighbor_request(one) for one in wanted], (*_GONE, errno.ENOENT))
    return [entry for body in answers.values() if (entry := neighbor_from(body))]


def routes(wanted: Iterable[Address]) -> dict[Address, KernelRoute | None]:
    """Return the routes of packets to these addresses; None if there is none, or it leads to this node itself."""
    asked = list(wanted)
    answers, _ = _answers([route_request(one) for one in asked], _NO_ROUTE)
    return {one: route_from(one, answers[i]) if i in answers else None for i, one in enumerate(asked)}


def legs(packets: Iterable[Packet]) -> dict[Packet, tuple[Leg, ...]]:
    """Return all next hops of the routes of packets, given as (source, destination); none if there is no route.

    Rules for packets from the source count. An IPv4 source that is not an address of this node has no route.
    """
    asked = list(packets)
    answers, _ = _answers([route_request(to, source) for source, to in asked], _NO_ROUTE)
    return {one: legs_of(answers[i]) if i in answers else () for i, one in enumerate(asked)}


def default_egress(sources: Iterable[Address]) -> set[int]:
    """Return the interfaces, by index, of the default routes for packets from these addresses, all their next hops."""
    found = legs((source, WORLD[source.version]) for source in sources)
    return {interface for some in found.values() for interface, _ in some if interface}


def addresses() -> set[InterfaceAddress]:
    """Return the addresses of all interfaces."""
    found = set()
    with _connected() as kernel:
        kernel.send(pack(addresses_request(), 1))
        for message in _queued(kernel):  # the kernel makes the next part of a dump while one is read
            if message.kind == NLMSG_ERROR:
                code = error_code(message.body)
                raise OSError(code, f"rtnetlink: {os.strerror(code)}")
            if message.kind != NLMSG_DONE and (one := interface_address_from(message.body)):
                found.add(one)
    return found


def _connected() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)


def _answers(requests: Sequence[Request], tolerated: Collection[int] | None) -> tuple[dict[int, bytes], dict[int, int]]:
    """Return the body of the answer to each request, by its index, and the error of those that have a tolerated one.

    Any other error is raised once all requests are handled. With None there is no other.
    """
    found: dict[int, bytes] = {}
    errors: dict[int, int] = {}
    with _connected() as kernel:
        for first in range(0, len(requests), DATAGRAM):
            part = enumerate(requests[first : first + DATAGRAM], first)
            kernel.send(b"".join(pack(request, i) for i, request in part))
            for message in _queued(kernel):
                if message.kind != NLMSG_ERROR:
                    found[message.sequence] = message.body
                elif code := error_code(message.body):
                    errors[message.sequence] = code
    for code in errors.values():
        if tolerated is not None and code not in tolerated:
            raise OSError(code, f"rtnetlink: {os.strerror(code)}")
    return found, errors


def _queued(kernel: socket.socket) -> Iterator[Message]:
    try:
        while True:
            yield from messages(kernel.recv(_DATAGRAM_BYTES))
    except BlockingIOError:
        return
