# SPDX-License-Identifier: Apache-2.0
"""VLANs that the configuration does not name, and tags that hardware strips, become lines for the operator."""

from ipaddress import IPv4Address, ip_network

from agent.forwarding.vlan import stripped, unnamed_by_address, unnamed_by_nodes, vlan_devices
from agent.netlink.link import Link

MAC = bytes(6)
ETH0, ETH1, BOND = Link(2, "eth0", MAC, 1500), Link(3, "eth1", MAC, 1500, master=4), Link(4, "bond0", MAC, 1500)
ETH9 = Link(9, "eth9", MAC, 1500)
PLAIN = {link.index: link for link in (ETH0, ETH1, BOND, ETH9)}
A, B, C = (IPv4Address("10.0.0.11") + i for i in range(3))


def with_devices(*devices: Link) -> dict[int, Link]:
    return PLAIN | {device.index: device for device in devices}


def device(index: int, name: str, lower: Link, vlan: int) -> Link:
    return Link(index, name, MAC, 1500, lower=lower.index, vlan=vlan)


ON_ETH0, ON_BOND, ELSEWHERE = (
    device(12, "eth0.5", ETH0, 5),
    device(13, "bond0.6", BOND, 6),
    device(14, "eth9.7", ETH9, 7),
)


def test_vlan_devices_of_the_uplinks_and_their_bonds() -> None:
    links = with_devices(ON_ETH0, ON_BOND, ELSEWHERE)
    assert vlan_devices(links, ["eth0"]) == [ON_ETH0]
    assert vlan_devices(links, ["eth1"]) == [ON_BOND]
    assert vlan_devices(links, ["eth0", "eth0.5"]) == [], "the program is on the device itself"


def test_stripped_tags_are_named_where_vlans_are_used() -> None:
    line = (
        "eth0 strips VLAN tags before the program sees them (rx-vlan-offload), so frames of any VLAN are handled as "
        "untagged: turn it off with `ethtool -K eth0 rxvlan off`"
    )
    strips = {"eth0"}.__contains__
    assert stripped(PLAIN, ["eth0", "eth1"], [], strips) == [], "no VLAN anywhere"
    assert stripped(PLAIN, ["eth0", "eth1"], [5], strips) == [line]
    assert stripped(with_devices(ON_ETH0), ["eth0"], [], strips) == [line]
    assert stripped(with_devices(ELSEWHERE), ["eth0"], [], strips) == []
    assert stripped(PLAIN, ["eth1"], [5], strips) == [], "nothing is stripped there"


def test_a_vlan_that_leads_to_nodes_but_is_not_named() -> None:
    assert unnamed_by_nodes([(A, 0), (B, 5)], {5}) == []
    assert unnamed_by_nodes([(C, 5), (A, 0), (B, 5)], {6}) == [
        "10.0.0.12 is reached by VLAN 5, which node.vlans does not name: what comes from there passes to the kernel: "
        "add 5 to node.vlans"
    ]


def test_the_nodes_address_on_a_vlan_that_is_not_named() -> None:
    links = with_devices(ON_ETH0, ELSEWHERE)
    subnets = [("eth0.5", ip_network("10.0.0.0/24"))]
    assert unnamed_by_address(A, links, ["eth0"], subnets, [5]) is None
    assert unnamed_by_address(A, links, ["eth0"], [("eth0.5", ip_network("10.9.0.0/24"))], []) is None
    assert unnamed_by_address(A, links, ["eth0"], [], []) is None
    assert unnamed_by_address(A, links, ["eth0"], subnets, []) == (
        "lacks VLAN 5, although 10.0.0.11 is on eth0.5: frames with that tag pass to the kernel; add 5"
    )
