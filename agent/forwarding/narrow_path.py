# SPDX-License-Identifier: Apache-2.0
"""Paths to other nodes that are too narrow for the tunnels of IPv6 services. Pure.

Every path of IPv6 carries 1,280 bytes (RFC 8200, section 5), and a sender ignores an error that names less (RFC 8201,
section 4). The program moves no new IPv6 flow by a tunnel that carries less (bpf/src/pick.h).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from agent.config.service import ServiceConfig
from agent.problem import Problem, ProblemLine
from bpf.layout.node import NodeEntry

IPV6_MTU: Final = 1280
_IP_HEADER: Final = {False: 20, True: 40}
_UDP_HEADER: Final = 8

NARROW = Problem(
    "the path to {node} has an MTU of {mtu}, too small for IPv6 in tunnels over {outer}: new connections of {services} "
    "do not go there, and stay at the node that gets them if no other is left",
    "raise the MTU on the path to {least}",
    "A tunnel must carry IPv6's least packet, 1,280 bytes (RFC 8200), and its own headers. IPv4 services go on.",
)


def least_mtus(services: Iterable[ServiceConfig]) -> dict[bool, int]:
    """Return the MTU that a path needs for the tunnels of all IPv6 services, by whether the tunnel itself is IPv6.

    0 without such services.
    """
    kinds = {service.forward for service in services if service.vip.version == 6} - {"l2"}
    if not kinds:
        return dict.fromkeys(_IP_HEADER, 0)
    udp = _UDP_HEADER if "gue" in kinds else 0
    return {outer6: IPV6_MTU + header + udp for outer6, header in _IP_HEADER.items()}


def problems(narrow: Iterable[NodeEntry], services: Collection[ServiceConfig]) -> list[ProblemLine]:
    """Return a problem for each node behind a path that is too narrow, with the next step."""
    least = least_mtus(services)
    tunnels = {s.name: s.forward for s in services if s.vip.version == 6 and s.forward != "l2"}
    found = []
    for node in sorted(narrow, key=lambda entry: entry.address):
        names = sorted(name for name, forward in tunnels.items() if tunnel_room(node, forward) < IPV6_MTU)
        found.append(
            NARROW.line(
                node=node.address,
                mtu=node.mtu,
                outer="IPv6" if node.outer6 else "IPv4",
                services=", ".join(names),
                least=least[node.outer6],
            )
        )
    return found


def tunnel_room(node: NodeEntry, forward: str) -> int:
    """Return the bytes of the largest packet that a tunnel to a node carries (`forward`: ipip or gue)."""
    return node.mtu - _IP_HEADER[node.outer6] - (_UDP_HEADER if forward == "gue" else 0)
