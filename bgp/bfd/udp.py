# SPDX-License-Identifier: Apache-2.0
"""The UDP sockets of BFD: RFC 5881 section 4 for neighbors on the link, RFC 5883 for those behind other routers.

Owns ports, TTL and addresses; packet.py owns the content of a packet. A packet from the link has TTL (hop limit) 255,
which no packet from further away can have (section 5, RFC 5082). A socket filter drops all others before they are
queued: a remote flood must not push the neighbor's packets out of the socket. From h hops away it is 255 - h, if the
neighbor sends with 255 at all: RFC 5883 does not require it, and BIRD sends with 64 then.

Standard library only: the BFD archive carries this file.
"""

from __future__ import annotations

import ctypes
import errno
import random
import socket
import struct
import sys
from typing import Any

SINGLE_HOP_PORT, MULTIHOP_PORT = 3784, 4784
SOURCE_PORTS = range(49152, 65536)
TTL = 255
_PRECEDENCE = 0xC0
"""DSCP CS6 (internetwork control), as routers mark BFD and BGP."""
_MAX_BYTES = 512
_IP_FREEBIND, _IPV6_FREEBIND, _SO_ATTACH_FILTER = 15, 78, 26
_IP_RECVTTL, _IPV6_RECVHOPLIMIT = 12, 51
_IPV6_HOPLIMIT = 52  # linux/in6.h
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF of linux/filter.h
_TTL_OFFSET = {socket.AF_INET: 8, socket.AF_INET6: 7}

Endpoint = tuple[Any, ...]
"""An address as the socket module represents it."""


def endpoint(address: str, port: int) -> tuple[socket.AddressFamily, Endpoint]:
    """Return family and endpoint of a textual address. OSError if the interface after the % does not exist."""
    host, _, interface = address.partition("%")
    if ":" not in host:
        return socket.AF_INET, (host, port)
    return socket.AF_INET6, (host, port, 0, socket.if_nametoindex(interface) if interface else 0)


def open_receiver(local_address: str, multihop: bool) -> socket.socket:
    """Return the socket that receives from all neighbors of a local address. OSError if another BFD speaker has the
    port."""
    family, local = endpoint(local_address, MULTIHOP_PORT if multihop else SINGLE_HOP_PORT)
    opened = _open(family)
    try:
        if family == socket.AF_INET:
            opened.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
        if not multihop:
            require_ttl(opened, TTL)
        opened.bind(local)
    except OSError:
        opened.close()
        raise
    return opened


def open_sender(local_address: str) -> socket.socket:
    """Return a socket for one session, with a source port of the range that section 4 requires."""
    family, _ = endpoint(local_address, 0)
    opened = _open(family)
    for port in random.sample(SOURCE_PORTS, 64):
        try:
            opened.bind(endpoint(local_address, port)[1])
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                continue
            opened.close()
            raise
        return opened
    opened.close()
    raise OSError(errno.EADDRINUSE, "no free UDP port in 49152-65535")


def _open(family: socket.AddressFamily) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # Freebind: the address may appear later (an interface at boot), or vanish and return (a link that flaps).
    if family == socket.AF_INET:
        opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _PRECEDENCE)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _PRECEDENCE)
    return opened


def require_ttl(opened: socket.socket, ttl: int) -> None:
    """Attach a filter that drops packets with a lower TTL, in place of the one before."""
    program = b"".join(
        struct.pack("=HBBI", code, if_true, if_false, value)
        for code, if_true, if_false, value in (
            (0x30, 0, 0, _NETWORK_HEADER + _TTL_OFFSET[opened.family]),  # BPF_LD | BPF_B | BPF_ABS
            (0x35, 0, 1, ttl),  # BPF_JMP | BPF_JGE | BPF_K
            (0x06, 0, 0, _MAX_BYTES),  # BPF_RET: accept so many bytes
            (0x06, 0, 0, 0),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", 4, ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def receive(opened: socket.socket) -> tuple[bytes, Endpoint, int] | None:
    """Return the next packet, its source and its TTL; None if none is queued."""
    try:
        data, extra, _flags, source = opened.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(4))
    except OSError:
        return None
    kinds = (socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT)
    ttls = [int.from_bytes(value, sys.byteorder) for level, kind, value in extra if (level, kind) in kinds]
    return data, source, ttls[0] if ttls else 0
