# SPDX-License-Identifier: Apache-2.0
"""The configuration against the interface that the machine really has."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from agent.config.file import parse
from agent.errors import AgentError
from agent.netlink.link import Link
from agent.node.own_interface import Interface, check_interface, vips_on_segment

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24, '2001:db8::/64']}
"""
MAC = bytes.fromhex("020000000001")
ETH0 = Link(2, "eth0", MAC, 1500)
A, SECOND, A6 = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.99"), IPv6Address("2001:db8::11")
ELSEWHERE6, LINK_LOCAL = IPv6Address("2001:db8:f::11"), ip_address("fe80::1")


def check(*addresses: IPv4Address | IPv6Address, node: str = "", members: str = "", link: Link = ETH0) -> Interface:
    text = TEXT.replace("interface: eth0", f"interface: eth0{node}").replace(
        "'2001:db8::/64']", f"'2001:db8::/64']{members}"
    )
    return check_interface(parse(text, "lb.yml"), link, addresses)


def test_the_first_address_and_the_first_of_the_members() -> None:
    assert check(A, SECOND) == Interface("eth0", 2, MAC, A)
    assert check(LINK_LOCAL, ELSEWHERE6, A6, A) == Interface("eth0", 2, MAC, A, (ELSEWHERE6, A6), A6)
    assert check(A, ELSEWHERE6).next_hop6 == ELSEWHERE6, "no end of tunnels, but a next hop"
    assert check(A, SECOND, node=", address: 10.0.0.99").address == SECOND


@pytest.mark.parametrize(
    ("addresses", "node", "members", "message"),
    [
        ((A6,), "", "", "node.interface: eth0 has no IPv4 address"),
        ((A,), ", address: 10.0.0.99", "", r"node.address: 10.0.0.99 is not on eth0 \(10.0.0.11\)"),
        ((IPv4Address("10.9.0.1"),), "", "", "members.allow: does not hold this node's own address 10.9.0.1"),
        ((A,), ", address6: '2001:db8::11'", "", "node.address6: 2001:db8::11 is not on eth0"),
        ((A, ELSEWHERE6), "", ", outer: ipv6", "members.outer: is ipv6, but eth0 has no IPv6 address"),
    ],
)
def test_what_the_machine_lacks(addresses: tuple[IPv4Address, ...], node: str, members: str, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        check(*addresses, node=node, members=members)


def test_an_interface_without_a_mac() -> None:
    with pytest.raises(AgentError, match=r"node\.interface: eth0 has no MAC"):
        check(A, link=Link(2, "eth0", b"", 1500))


def test_vips_in_a_subnet_of_the_node() -> None:
    more = (
        "{name: v6, vip: '2001:db8:9::1', protocol: tcp, port: 443}, {name: w, vip: 192.0.2.10, protocol: tcp, port: 1}"
    )
    config = parse(TEXT.replace("port: 443}]", f"port: 443}}, {more}]"), "lb.yml")
    elsewhere = [("eth0", ip_network("10.0.0.0/24")), ("eth0", ip_network("2001:db8::/64"))]
    assert vips_on_segment(config, elsewhere) == ()
    subnets = [("eth1", ip_network("192.0.2.0/24")), ("eth0", ip_network("2001:db8:9::/64"))]
    assert list(map(str, vips_on_segment(config, elsewhere + subnets))) == [
        "services[0].vip: 192.0.2.10 is in 192.0.2.0/24 of eth1: hosts there ask for it by ARP, and no node answers; "
        "choose one outside the subnet",
        "services[1].vip: 2001:db8:9::1 is in 2001:db8:9::/64 of eth0: hosts there ask for it by neighbor discovery, "
        "and no node answers; choose one outside the subnet",
    ]
