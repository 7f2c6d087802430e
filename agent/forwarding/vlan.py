# SPDX-License-Identifier: Apache-2.0
"""VLANs that the program should handle and does not: `node.vlans` lacks them, or hardware strips their tags. Pure.

The program handles untagged frames, and those with tags of `node.vlans`; all others pass to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from ipaddress import IPv4Address

from agent.address import Address, Network
from agent.netlink.link import Link
from agent.problem import Problem, ProblemLine

STRIPS_TAGS = Problem(
    "{interface} strips VLAN tags before the program sees them (rx-vlan-offload), so frames of any VLAN are handled as "
    "untagged",
    "turn it off with `ethtool -K {interface} rxvlan off`",
    "Shown where VLANs are in use. A VIP then answers in VLANs for which it was not meant.",
)
UNNAMED_VLAN = Problem(
    "{node} is reached by VLAN {vlan}, which node.vlans does not name: what comes from there passes to the kernel",
    "add {vlan} to node.vlans",
    "Frames with other tags are not the load balancer's; packets that this node forwards there are lost.",
)


def vlan_devices(links: Mapping[int, Link], uplinks: Collection[str]) -> list[Link]:
    """Return the VLAN devices on these interfaces, or on their bonds, that are none of these themselves."""
    below = {link.index for link in links.values() if link.name in uplinks}
    below |= {links[index].master for index in below if links[index].master}
    return [link for link in links.values() if link.vlan and link.lower in below and link.name not in uplinks]


def stripped(
    links: Mapping[int, Link], uplinks: Collection[str], named: Collection[int], strips: Callable[[str], bool]
) -> list[ProblemLine]:
    """Return a line for each uplink whose hardware strips tags (`strips`), if there is any use of VLANs."""
    if not named and not vlan_devices(links, uplinks):
        return []
    return [STRIPS_TAGS.line(interface=name) for name in uplinks if strips(name)]


def unnamed_by_nodes(vlans: Iterable[tuple[IPv4Address, int]], named: Set[int]) -> list[ProblemLine]:
    """Return a line for each VLAN that the kernel's routes to other nodes use, but `node.vlans` does not name.

    `vlans`: of each node, 0 for none.
    """
    found: dict[int, list[IPv4Address]] = {}
    for address, vlan in sorted(vlans):
        if vlan and vlan not in named:
            found.setdefault(vlan, []).append(address)
    return [UNNAMED_VLAN.line(node=nodes[0], vlan=vlan) for vlan, nodes in found.items()]


def unnamed_by_address(
    own: Address, links: Mapping[int, Link], uplinks: Collection[str], subnets: Iterable[tuple[str, Network]],
    named: Collection[int],
) -> str | None:  # fmt: skip
    """Return what is wrong if the node's own address is on a VLAN device whose VLAN is not named; None if nothing.

    `subnets` are those of the VLAN devices, with their names.
    """
    holders = {name for name, subnet in subnets if own in subnet}
    for device in vlan_devices(links, uplinks):
        if device.name in holders and device.vlan not in named:
            return (
                f"lacks VLAN {device.vlan}, although {own} is on {device.name}: frames with that tag pass to the "
                f"kernel; add {device.vlan}"
            )
    return None
