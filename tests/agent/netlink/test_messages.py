# SPDX-License-Identifier: Apache-2.0
"""Links, neighbors and routes from the messages that describe them."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.netlink.link import Link, link_from
from agent.netlink.neighbor import NeighborEntry, neighbor_from
from agent.netlink.route import KernelRoute, destination_of, egress_of, route_from

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
UNICAST, LOCAL = 1, 2
MAC, MAC_TEXT = bytes.fromhex("020000000001"), "02:00:00:00:00:01"
NODE, ROUTER = ip_address("10.0.0.12"), ip_address("10.0.0.1")
ETH0 = {"index": 2, "ifname": "eth0", "address": MAC_TEXT, "mtu": 1500, "state": "up"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (ETH0, Link(2, "eth0", MAC, 1500)),
        ({**ETH0, "state": "down", "master": 5}, Link(2, "eth0", MAC, 1500, up=False, master=5)),
        (
            {**ETH0, "link": 3, "linkinfo": {"kind": "vlan", "data": {"vlan_id": 7}}},
            Link(2, "eth0", MAC, 1500, lower=3, vlan=7),
        ),
        ({**ETH0, "link": 3, "linkinfo": {"kind": "veth"}}, Link(2, "eth0", MAC, 1500, lower=3)),
        ({"index": 9, "ifname": "tun0", "mtu": 1400, "state": "up"}, Link(9, "tun0", b"", 1400)),
    ],
)
def test_link(message: dict[str, Any], expected: Link) -> None:
    assert link_from(message) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, NeighborEntry(NODE, 2, MAC)),
        ({"family": AF_INET6, "dst": "fe80::1"}, NeighborEntry(ip_address("fe80::1"), 2, MAC)),
        ({"family": AF_BRIDGE}, None),
        ({"lladdr": None}, None),
        ({"lladdr": "00:00:00:00:00:00"}, None),
        ({"lladdr": "00:01:02:03"}, None),
    ],
)
def test_neighbor(change: dict[str, Any], expected: NeighborEntry | None) -> None:
    message = {"family": AF_INET, "dst": "10.0.0.12", "ifindex": 2, "lladdr": MAC_TEXT}
    assert neighbor_from({**message, **change}) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": UNICAST, "oif": 2}, KernelRoute(NODE, 2)),
        ({"type": UNICAST, "oif": 2, "gateway": "10.0.0.1"}, KernelRoute(NODE, 2, ROUTER)),
        ({"type": UNICAST, "oif": 2, "via": {"addr": "fe80::1"}}, KernelRoute(NODE, 2, ip_address("fe80::1"))),
        ({"type": UNICAST, "oif": 2, "metrics": {"mtu": 1400}}, KernelRoute(NODE, 2, mtu=1400)),
        ({"type": LOCAL, "oif": 1}, None),
        ({"type": UNICAST}, None),
    ],
)
def test_route(message: dict[str, Any], expected: KernelRoute | None) -> None:
    assert route_from(NODE, message) == expected


def test_egress_is_that_of_all_next_hops() -> None:
    assert egress_of({"type": UNICAST, "oif": 2}) == {2}
    assert egress_of({"type": UNICAST, "multipath": [{"oif": 2}, {"oif": 3}]}) == {2, 3}
    assert egress_of({"type": UNICAST}) == set()
    assert egress_of({"type": LOCAL, "oif": 1}) == set()


def test_destination_of_a_route() -> None:
    assert destination_of({"family": AF_INET, "dst": "10.5.0.0", "dst_len": 16}) == ip_network("10.5.0.0/16")
    assert destination_of({"family": AF_INET, "dst_len": 0}) == ip_network("0.0.0.0/0")
    assert destination_of({"family": AF_INET6, "dst_len": 0}) == ip_network("::/0")
    assert destination_of({"family": AF_BRIDGE, "dst_len": 0}) is None
