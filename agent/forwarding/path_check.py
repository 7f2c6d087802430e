# SPDX-License-Identifier: Apache-2.0
"""Before an agent runs, for `lbctl config check`: a missing route to clients or backends, a strict reverse path filter.

While it runs, answer_monitor.py watches the same path, with the next hops' MACs; answer_path.py has the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pyroute2.netlink.exceptions import NetlinkError

from agent.address import Address
from agent.config.schema import Config
from agent.errors import SettingError
from agent.forwarding.answer_path import PathFacts, PathLeg, path_faults
from agent.netlink import batch
from agent.netlink.connection import Netlink
from agent.netlink.interface_setting import strict_filters
from agent.netlink.link import Link, receivers
from agent.netlink.route import KernelRoute


async def path_warnings(config: Config, own: Address) -> tuple[SettingError, ...]:
    """Return warnings about the paths from this node, whose own address is `own`; one if they cannot be read."""
    netlink = Netlink()
    try:
        links = await netlink.links()
        addresses = {address for _, address in batch.addresses()}
        backends = {backend.address for service in config.services for backend in service.backends} - addresses
        routes, facts = batch.routes(backends), _facts(config, own, links, addresses)
    except (NetlinkError, OSError) as error:
        return (SettingError("node", f"the kernel does not describe this node's routes: {error}; check again"),)
    finally:
        netlink.close()
    faults = path_faults(config, own, facts)
    return (
        *(SettingError(one.setting, one.line) for one in faults if one.setting),
        *unreachable_backends(config, routes),
    )


def unreachable_backends(config: Config, routes: Mapping[Address, KernelRoute | None]) -> Iterator[SettingError]:
    """Yield a warning for each service with backends to which there is no route. `routes`: those looked up. Pure."""
    for i, service in enumerate(config.services):
        places = [j for j, one in enumerate(service.backends) if one.address in routes and routes[one.address] is None]
        if places:
            more = f" and {len(places) - 1} more of these backends" if len(places) > 1 else ""
            lost = f"there is no route to {service.backends[places[0]].address}{more}"
            yield SettingError(
                f"services[{i}].backends[{places[0]}].address", f"{lost}: add it, or correct the address"
            )


def _facts(config: Config, own: Address, links: Mapping[int, Link], addresses: set[Address]) -> PathFacts:
    """Return the kernel's facts as they will be once the agent has put the VIPs on lo and made filters loose."""
    packets = {}
    for vip in config.vips:
        # The kernel refuses an IPv4 source that is not there yet. Rules for packets from the VIP do not count then.
        source = vip if vip in addresses or vip.version == 6 else own
        for clients in config.node.client_prefixes(vip.version):
            packets[vip, clients] = (source, batch.sample(clients))
    found = batch.legs(packets.values())
    legs = {
        key: tuple(PathLeg(links[index].name if index in links else "", gateway, True) for index, gateway in found[one])
        for key, one in packets.items()
    }
    by_uplink = {name: receivers(links.values(), name) for name in config.node.names}
    strict = strict_filters({one for some in by_uplink.values() for one in some})
    if config.node.rp_filter == "loose":
        strict -= set(config.node.names)
    return PathFacts(frozenset(addresses | {own, *config.vips}), (own,), legs, by_uplink, strict)
