# SPDX-License-Identifier: Apache-2.0
"""The egress filter: the interfaces that have it, and the largest MSS in this node's SYN-ACKs.

Owns the decision and its upkeep. The uplinks have the filter on every node: it drops forged tunnels and markers there
(bpf/src/egress.c). Answers of services with tunnels may leave by other interfaces as well.

A client's packet reaches its owner in a tunnel from some other node; what fits into the owner's own tunnels fits into
those to it, unless the two paths differ (then ICMP informs the client).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pyroute2.netlink.exceptions import NetlinkError

from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter, key_of
from agent.forwarding.narrow_path import IPV6_MTU
from agent.netlink.batch import default_egress
from agent.netlink.connection import Netlink
from agent.netlink.link import Link
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.layout.service import ServiceKey

log = logging.getLogger("anylb")

KEEP_S: Final = 5.0
_MTU: Final = 1500
_CONSEQUENCE: Final = (
    "there processes of this node can send tunnels to other nodes, and the MSS of SYN-ACKs is not lowered, so that "
    "uploads of clients that receive no ICMP may hang: load sch_clsact and cls_bpf"
)
_IP_HEADER: Final = {4: 20, 6: 40}
_TCP_HEADER: Final = 20
_UDP_HEADER: Final = 8
_MSS_MIN: Final = {4: 48, 6: IPV6_MTU - 40 - 20}
"""Linux never uses a smaller MSS over IPv4 (tcp_min_snd_mss); IPv6 needs no smaller one, see narrow_path.py."""


def mss_limit(service: ServiceConfig, outer: int, mtu: int) -> int | None:
    """Return the MSS whose packets fit into the service's tunnels (`outer`: 4 or 6) over that MTU; None without any."""
    if service.protocol != "tcp" or service.mode == "nat":
        return None
    return mss_limit_of(service.vip.version, service.forward, outer, mtu)


def mss_limit_of(version: int, forward: str, outer: int, mtu: int) -> int | None:
    """Return the MSS of an IP version whose packets fit into a kind of tunnel; None for l2, which has none."""
    if forward == "l2":
        return None
    tunnel = _IP_HEADER[outer] + (_UDP_HEADER if forward == "gue" else 0)
    return max(_MSS_MIN[version], mtu - tunnel - _IP_HEADER[version] - _TCP_HEADER)


def mss_limits(config: Config, mtu: int) -> dict[ServiceKey, int]:
    """Return the MSS limit of each service with tunnels. With outer IPv6, nodes without an IPv6 end need less room."""
    outer = 6 if config.members.outer == "ipv6" else 4
    found = {key_of(service): mss_limit(service, outer, mtu) for service in config.services}
    return {key: most for key, most in found.items() if most is not None}


def interfaces(links: Mapping[int, Link], uplinks: Iterable[str], egress: Iterable[int]) -> list[str]:
    """Return the interfaces by which answers leave: the uplinks and those of the kernel's routes (`egress`), by name.

    Only Ethernet interfaces: one without a MAC has no frames that the program could read.
    """
    others = {links[index].name for index in egress if index in links and len(links[index].mac) == 6}
    names = dict.fromkeys(uplinks)
    return [*names, *sorted(others - names.keys())]


class EgressKeeper:
    """The keeper of limits and filters. An error is reported and stops nothing else."""

    def __init__(
        self,
        config: Config,
        datapath: DataPath,
        map_writer: MapWriter,
        netlink: Netlink,
        on_mtu: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_mtu` gets the least MTU of the paths to other nodes, each time it is read."""
        self.limits: dict[ServiceKey, int] = {}
        self.interfaces: list[str] = []
        """The interfaces that have the filter."""
        self.errors: list[str] = []
        self._config, self._datapath, self._map_writer, self._netlink = config, datapath, map_writer, netlink
        self._on_mtu = on_mtu
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Keep forever."""
        while True:
            await asyncio.sleep(KEEP_S)
            await self.keep()

    async def keep(self) -> None:
        """Read MTUs and routes once, and correct limits and filters that differ."""
        async with self._lock:
            before = self.errors, self.limits, self.interfaces
            try:
                self.errors = await self._keep()
            except (NetlinkError, OSError, BpfError, AgentError) as error:
                self.errors = [str(error)]
            if (self.limits, self.interfaces) != before[1:] and self.interfaces and self.limits:
                limits_text = ", ".join(f"{key.vip} {most}" for key, most in self.limits.items())
                log.info("SYN-ACKs' MSS is lowered on %s: %s", ", ".join(self.interfaces), limits_text)
            for line in self.errors:
                if line not in before[0]:
                    log.warning("%s; %s", line, _CONSEQUENCE)

    async def _keep(self) -> list[str]:
        links = await self._netlink.links()
        names = self._config.node.names
        mtus = [link.mtu for link in links.values() if link.name in names] + self._map_writer.nodes.mtus()
        mtu = min(mtus, default=_MTU)
        self._on_mtu(mtu)
        self.limits = mss_limits(self._config, mtu)
        self._datapath.maps.mss.write(self.limits)
        wanted = interfaces(links, names, default_egress({key.vip for key in self.limits}))
        program = self._datapath.egress
        failed = await asyncio.to_thread(program.attach, wanted)
        self.interfaces = [name for name, error in failed.items() if error is None]
        errors = [error for error in failed.values() if error]
        return [str(program.error), *errors] if program.error else errors
