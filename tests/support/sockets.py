# SPDX-License-Identifier: Apache-2.0
"""Sockets as a dump of the kernel has them, and services to hold them."""

import struct
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

import numpy as np

from agent.config.service import ServiceConfig
from agent.connections.diag_message import SOCKET, Sockets

ESTABLISHED = 1

End = tuple[str, int]


def sockets_of(ends: Iterable[tuple[End, End]], state: int = ESTABLISHED) -> Sockets:
    """Return sockets with these local and remote ends."""
    rows = [(_words(local), _words(remote), 0, _port(local), _port(remote), state) for local, remote in ends]
    return np.array(rows, SOCKET)


def _words(end: End) -> tuple[int, ...]:
    address = ip_address(end[0])
    return struct.unpack("<4I", (IPv6Address(f"::ffff:{address}") if address.version == 4 else address).packed)


def _port(end: End) -> int:
    return int.from_bytes(end[1].to_bytes(2, "big"), "little")


def service_of(vip: str, port: int | str, protocol: str = "tcp", affinity: str = "5-tuple") -> ServiceConfig:
    health = {"type": "tcp", "port": 1}
    name = f"{vip}-{port}-{protocol}".replace(".", "-").replace(":", "-")
    return ServiceConfig.model_validate(
        {"name": name, "vip": vip, "protocol": protocol, "port": port, "affinity": affinity, "health": health}
    )
