# SPDX-License-Identifier: Apache-2.0
"""The UDP sockets of BFD: RFC 5881 section 4 for neighbors on the link, RFC 5883 for those behind other routers.

Owns ports, TTL and addresses; what is in a packet is packet.py's. A packet from the link has TTL (hop limit) 255,
which none from further away can have (section 5, RFC 5082). The kernel is told to drop others before they are queued: a
flood from afar must not push the neighbor's packets out of the socket.

Standard library only: the relay's archive carries this file (helper_archive.py).
"""

from __future__ import annotations

import ctypes
import errno
import random
import socket
import struct
from typing import Any

SINGLE_HOP_PORT, MULTIHOP_PORT = 3784, 4784
SOURCE_PORTS = range(49152, 65536)
TTL = 255
_PRECEDENCE = 0xC0
"""Internet control (CS6), as routers mark BFD and BGP."""
_MAX_BYTES = 512
_IP_FREEBIND, _IPV6_FREEBIND, _SO_ATTACH_FILTER = 15, 78, 26
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF of linux/filter.h
_TTL_OFFSET = {socket.AF_INET: 8, socket.AF_INET6: 7}

Endpoint = tuple[Any, ...]
"""An address as the socket module has it."""


def endpoint(address: str, port: int) -> tuple[socket.AddressFamily, Endpoint]:
    """Return family and endpoint of an address as text. OSError if the interface behind the % does not exist."""
    host, _, interface = address.partition("%")
    if ":" not in host:
        return socket.AF_INET, (host, port)
    return socket.AF_INET6, (host, port, 0, socket.if_nametoindex(interface) if interface else 0)


def listener(local_address: str, multihop: bool) -> socket.socket:
    """Return the socket that hears all neighbors of a local address. OSError, if another BFD speaker has the port."""
    family, local = endpoint(local_address, MULTIHOP_PORT if multihop else SINGLE_HOP_PORT)
    opened = _open(family)
    try:
        if not multihop:
            _drop_from_afar(opened, family)
        opened.bind(local)
    except OSError:
        opened.close()
        raise
    return opened


def sender(local_address: str) -> socket.socket:
    """Return a socket with a source port of the range that section 4 wants, its own for each session."""
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
    # Freebind: the address may come later (an interface at boot), or go and come back (a link that flaps).
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


def _drop_from_afar(opened: socket.socket, family: socket.AddressFamily) -> None:
    """Attach a filter: load the TTL, keep the packet if it is 255."""
    program = b"".join(
        struct.pack("=HBBI", code, if_so, if_not, value)
        for code, if_so, if_not, value in (
            (0x30, 0, 0, _NETWORK_HEADER + _TTL_OFFSET[family]),  # BPF_LD | BPF_B | BPF_ABS
            (0x15, 0, 1, TTL),  # BPF_JMP | BPF_JEQ | BPF_K
            (0x06, 0, 0, _MAX_BYTES),  # BPF_RET: so many bytes of it
            (0x06, 0, 0, 0),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", 4, ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def receive(opened: socket.socket) -> tuple[bytes, Endpoint] | None:
    """Return the next packet and who sent it, None if there is none."""
    try:
        data, source = opened.recvfrom(_MAX_BYTES)
    except OSError:
        return None
    return data, source
