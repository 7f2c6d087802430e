# SPDX-License-Identifier: Apache-2.0
"""From the kernel's routes, links and neighbors to the next hop of a node: the interface and the MAC of its frames.

Pure; route_monitor.py reads the kernel's state and follows it.

1. The kernel's own route to a node's address decides: it has the interface, and the router if there is one.
2. The MAC is that of the router, or of the node itself if it is on the link; the last one known, even if it failed.
3. Make before break: while the kernel has no route, or the new next hop has not answered yet, the previous next hop
   stays. Its interface and MAC belonged together, so no packet goes to a wrong machine; TCP sends a packet again that
   is lost there, but one that skipped its owner would be answered with a reset. A node that was never reachable has no
   MAC, and the program skips it.
4. Frames leave by an interface that XDP can send from: of a VLAN device its lower interface, with the tag; of a bond
   one of its slaves. If the program is attached to the kernel's interface itself, they leave by that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.netlink.link import Link
from agent.netlink.neighbor import Neighbor
from agent.netlink.route import KernelRoute


@dataclass(frozen=True, slots=True)
class NextHop:
    """How packets for a node leave. `ifindex` 0 and `source` None: by the interface on which they arrived."""

    mac: bytes | None
    on_link: bool = True
    ifindex: int = 0
    source: bytes | None = None
    vlan: int = 0
    mtu: int = 1500


def next_hop(
    route: KernelRoute | None,
    links: Mapping[int, Link],
    macs: Mapping[Neighbor, bytes],
    uplinks: frozenset[int],
    before: NextHop | None,
) -> NextHop | None:
    """Return the next hop of an address; None if nothing is known of it. `uplinks`: where the program is attached."""
    if route is None or route.ifindex not in links:
        return before
    link = links[route.ifindex]
    mac = macs.get(route.neighbor)
    if mac is None and before is not None and before.mac is not None:
        return before
    out, vlan = _egress(link, links, uplinks)
    mtu, on_link = route.mtu or link.mtu, route.gateway is None
    if out is None:
        return NextHop(mac, on_link, vlan=vlan, mtu=mtu)
    return NextHop(mac, on_link, out.index, out.mac, vlan, mtu)


def _egress(link: Link, links: Mapping[int, Link], uplinks: frozenset[int]) -> tuple[Link | None, int]:
    """Return the interface to send from (None: the one on which a packet arrived) and the VLAN tag to add (0: none)."""
    if link.index in uplinks:
        return (None if len(uplinks) == 1 else link), 0
    if link.vlan and link.lower in links:
        return _egress(links[link.lower], links, uplinks)[0], link.vlan
    slaves = [index for index in sorted(uplinks) if index in links and links[index].master == link.index]
    if slaves and len(slaves) == len(uplinks):
        return None, 0  # each slave: a packet leaves by the one on which it arrived, which keeps the bond's spread
    up = [links[index] for index in slaves if links[index].up]
    return (up[0] if up else link), 0
