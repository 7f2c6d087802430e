# SPDX-License-Identifier: Apache-2.0
"""From the kernel's routes, links and neighbors to the next hop of a node: where its packets leave, and to which MAC.

Owns the decision; pure. What the kernel says is asked and followed by route_monitor.py.

1. The kernel's own route to a node's address decides: the interface, and the router on the way if there is one.
2. The MAC is that of the router, or of the node itself if it is on the link; the last one known, even if it failed.
3. Make before break: while the kernel has no route, or nobody answered at the new next hop yet, the old way stands. It
   names an interface and a MAC that belonged together, so no packet is sent astray; a packet that is lost on it is
   sent again by TCP, one that skipped its owner would be answered with a reset. A node that was never reachable has
   no MAC and is skipped.
4. Frames leave by an interface that XDP can send from: a VLAN device's own lower interface, with the tag; a bond's
   slave. Where the kernel's interface is itself one that the program is attached to, that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.address import Address
from agent.netlink.link import Link
from agent.netlink.route import KernelRoute


@dataclass(frozen=True, slots=True)
class NextHop:
    """How packets for a node leave. `ifindex` 0 and `source` None: by the interface that they came in by."""

    mac: bytes | None
    on_link: bool = True
    ifindex: int = 0
    source: bytes | None = None
    vlan: int = 0
    mtu: int = 1500


def next_hop(
    way: KernelRoute | None,
    links: Mapping[int, Link],
    macs: Mapping[tuple[int, Address], bytes],
    uplinks: frozenset[int],
    before: NextHop | None,
) -> NextHop | None:
    """The next hop of an address; None if nothing at all is known of it. `uplinks`: where the program is attached."""
    if way is None or way.ifindex not in links:
        return before
    link = links[way.ifindex]
    mac = macs.get(way.neighbor)
    if mac is None and before is not None and before.mac is not None:
        return before
    out, vlan = _egress(link, links, uplinks)
    mtu, on_link = way.mtu or link.mtu, way.gateway is None
    if out is None:
        return NextHop(mac, on_link, vlan=vlan, mtu=mtu)
    return NextHop(mac, on_link, out.index, out.mac, vlan, mtu)


def _egress(link: Link, links: Mapping[int, Link], uplinks: frozenset[int]) -> tuple[Link | None, int]:
    """The interface to send from, None for the one that a packet came in by, and the tag to put on (0 for none)."""
    if link.index in uplinks:
        return (None if len(uplinks) == 1 else link), 0
    if link.vlan and link.lower in links:
        return _egress(links[link.lower], links, uplinks)[0], link.vlan
    slaves = [index for index in sorted(uplinks) if index in links and links[index].master == link.index]
    if slaves and len(slaves) == len(uplinks):
        return None, 0  # each of them: what came by one goes back by it, and the bond's spread is kept
    up = [links[index] for index in slaves if links[index].up]
    return (up[0] if up else link), 0


def unresolved(ways: Iterable[KernelRoute], macs: Mapping[tuple[int, Address], bytes]) -> set[tuple[int, Address]]:
    """The neighbors that somebody must ask for."""
    return {way.neighbor for way in ways} - macs.keys()
