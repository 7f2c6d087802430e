# SPDX-License-Identifier: Apache-2.0
"""The next hop of a node, for each combination of route, links and neighbors that the kernel may have."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from agent.address import Address
from agent.forwarding.next_hop import NextHop, next_hop
from agent.netlink.link import Link
from agent.netlink.route import KernelRoute

NODE, ROUTER, NODE6 = IPv4Address("10.0.0.12"), IPv4Address("10.0.0.1"), ip_address("2001:db8::12")
HERE, THERE, THAT = (bytes.fromhex(f"0200000000{i:02x}") for i in (1, 2, 3))
ETH0, ETH1 = Link(2, "eth0", HERE, 1500), Link(3, "eth1", THERE, 9000)
VLAN = Link(4, "eth0.7", HERE, 1496, lower=2, vlan=7)
BOND = Link(5, "bond0", HERE, 1500)
SLAVES = replace(ETH0, master=5), replace(ETH1, master=5, mac=HERE)
OLD = NextHop(THERE, on_link=False, ifindex=3, source=THERE, mtu=1400)


def links(*some: Link) -> dict[int, Link]:
    return {link.index: link for link in some}


BOTH = links(ETH0, ETH1, VLAN, BOND)


@pytest.mark.parametrize(
    ("what", "route", "macs", "uplinks", "before", "expected"),
    [
        ("on the link", KernelRoute(NODE, 2), {(2, NODE): THAT}, {2}, None, NextHop(THAT)),
        ("behind a router", KernelRoute(NODE, 2, ROUTER), {(2, ROUTER): THAT}, {2}, None, NextHop(THAT, on_link=False)),
        ("behind a router the node's own MAC is not used", KernelRoute(NODE, 2, ROUTER), {(2, NODE): THAT}, {2}, None,
         NextHop(None, on_link=False)),
        ("a MAC on another interface does not count", KernelRoute(NODE, 3), {(2, NODE): THAT}, {2, 3}, None,
         NextHop(None, True, 3, THERE, 0, 9000)),
        ("the route's MTU overrides the link's", KernelRoute(NODE, 2, mtu=1400), {(2, NODE): THAT}, {2}, None,
         NextHop(THAT, mtu=1400)),
        ("two uplinks: the one of the route", KernelRoute(NODE, 3), {(3, NODE): THAT}, {2, 3}, None,
         NextHop(THAT, True, 3, THERE, 0, 9000)),
        ("out of an interface without the program", KernelRoute(NODE, 3), {(3, NODE): THAT}, {2}, None,
         NextHop(THAT, True, 3, THERE, 0, 9000)),
        ("IPv6", KernelRoute(NODE6, 2), {(2, NODE6): THAT}, {2}, None, NextHop(THAT)),
        ("an IPv4 node over an IPv6 router", KernelRoute(NODE, 2, NODE6), {(2, NODE6): THAT}, {2}, None,
         NextHop(THAT, on_link=False)),
        ("a VLAN: the lower interface, with the tag", KernelRoute(NODE, 4), {(4, NODE): THAT}, {2}, None,
         NextHop(THAT, vlan=7, mtu=1496)),
        ("a VLAN of one uplink of two", KernelRoute(NODE, 4), {(4, NODE): THAT}, {2, 3}, None,
         NextHop(THAT, True, 2, HERE, 7, 1496)),
        ("a VLAN device with the program on itself", KernelRoute(NODE, 4), {(4, NODE): THAT}, {4}, None,
         NextHop(THAT, mtu=1496)),
        ("a bond with the program on itself", KernelRoute(NODE, 5), {(5, NODE): THAT}, {5}, None, NextHop(THAT)),
        ("a new router that has not answered: the previous hop", KernelRoute(NODE, 2, ROUTER), {}, {2}, OLD, OLD),
        ("a new router that has answered", KernelRoute(NODE, 2, ROUTER), {(2, ROUTER): THAT}, {2}, OLD,
         NextHop(THAT, on_link=False)),
        ("no route: the previous hop", None, {(2, NODE): THAT}, {2}, OLD, OLD),
        ("never a route", None, {(2, NODE): THAT}, {2}, None, None),
        ("an interface that no longer exists", KernelRoute(NODE, 9), {(9, NODE): THAT}, {2}, OLD, OLD),
        ("never answered", KernelRoute(NODE, 2), {}, {2}, None, NextHop(None)),
        ("never answered, and another router now", KernelRoute(NODE, 2, ROUTER), {}, {2}, NextHop(None),
         NextHop(None, on_link=False)),
    ],
)  # fmt: skip
def test_next_hop(
    what: str, route: KernelRoute | None, macs: Mapping[tuple[int, Address], bytes], uplinks: set[int],
    before: NextHop | None, expected: NextHop | None,
) -> None:  # fmt: skip
    assert next_hop(route, BOTH, macs, frozenset(uplinks), before) == expected, what


def test_slaves_of_a_bond() -> None:
    route, macs = KernelRoute(NODE, 5), {(5, NODE): THAT}
    assert next_hop(route, links(*SLAVES, BOND), macs, frozenset({2, 3}), None) == NextHop(THAT), (
        "out of the interface that it came in by"
    )
    third = Link(6, "eth2", THAT, 1500)
    some = links(*SLAVES, BOND, third)
    assert next_hop(route, some, macs, frozenset({2, 3, 6}), None) == NextHop(THAT, True, 2, HERE)
    some[2] = replace(some[2], up=False)
    assert next_hop(route, some, macs, frozenset({2, 3, 6}), None) == NextHop(THAT, True, 3, HERE)
