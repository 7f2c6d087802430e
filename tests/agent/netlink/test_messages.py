# SPDX-License-Identifier: Apache-2.0
"""Links, neighbors and routes from the messages that describe them. pyroute2 encodes those that we parse ourselves."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent.netlink.interface_address import interface_address_from
from agent.netlink.link import Link, link_from, receivers
from agent.netlink.message import (
    RTM_GETROUTE,
    Message,
    Request,
    address,
    attributes,
    error_code,
    messages,
    number,
    pack,
    pack_attribute,
)
from agent.netlink.neighbor import NeighborEntry, confirm_request, neighbor_from
from agent.netlink.route import KernelRoute, destination_of, legs_of, route_from, route_request

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
UNICAST, LOCAL = 1, 2
MAC, MAC_TEXT = bytes.fromhex("020000000001"), "02:00:00:00:00:01"
NODE, ROUTER, ROUTER6 = ip_address("10.0.0.12"), ip_address("10.0.0.1"), ip_address("fe80::1")
ETH0 = {"index": 2, "ifname": "eth0", "address": MAC_TEXT, "mtu": 1500, "state": "up"}


def body(message: Any, attrs: dict[str, Any] | None = None, **fields: int) -> bytes:
    """Return what pyroute2 writes after the message's header."""
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list((attrs or {}).items())
    message.encode()
    return bytes(message.data[16:])


def route_body(attrs: dict[str, Any], kind: int = UNICAST, family: int = AF_INET, dst_len: int = 32) -> bytes:
    return body(rtmsg(), attrs, type=kind, family=family, dst_len=dst_len)


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


def test_receivers_of_what_arrives_on_an_interface() -> None:
    links = [
        Link(1, "lo", b"", 65536),
        Link(2, "eth1", MAC, 1500),
        Link(3, "eth2", MAC, 1500, master=5),
        Link(4, "eth1.7", MAC, 1500, lower=2, vlan=7),
        Link(5, "bond0", MAC, 1500),
        Link(6, "bond0.8", MAC, 1500, lower=5, vlan=8),
        Link(7, "macvlan0", MAC, 1500, lower=2),
    ]
    assert receivers(links, "eth1") == {"eth1", "eth1.7"}
    assert receivers(links, "eth2") == {"bond0", "bond0.8"}
    assert receivers(links, "eth9") == set()


@pytest.mark.parametrize(
    ("fields", "attrs", "expected"),
    [
        ({}, {}, NeighborEntry(NODE, 2, MAC, idle=True)),
        ({"state": 0x04}, {}, NeighborEntry(NODE, 2, MAC, idle=True)),
        ({"state": 0x10}, {}, NeighborEntry(NODE, 2, MAC)),
        ({"state": 0x20}, {"NDA_LLADDR": None}, NeighborEntry(NODE, 2, None, failed=True)),
        ({"state": 0x80}, {}, NeighborEntry(NODE, 2, MAC, maintained=True)),
        ({"state": 0x40}, {}, NeighborEntry(NODE, 2, MAC, maintained=True)),
        ({"flags": 0x10}, {}, NeighborEntry(NODE, 2, MAC, maintained=True, idle=True)),
        ({}, {"NDA_FLAGS_EXT": 1}, NeighborEntry(NODE, 2, MAC, maintained=True, idle=True)),
        ({"family": AF_INET6}, {"NDA_DST": "fe80::1"}, NeighborEntry(ROUTER6, 2, MAC, idle=True)),
        ({"family": AF_BRIDGE}, {}, None),
        ({}, {"NDA_DST": None}, None),
        ({}, {"NDA_LLADDR": "00:00:00:00:00:00"}, NeighborEntry(NODE, 2, None)),
        ({}, {"NDA_LLADDR": "192.0.2.1"}, NeighborEntry(NODE, 2, None)),  # as on a tunnel
    ],
)
def test_neighbor(fields: dict[str, int], attrs: dict[str, Any], expected: NeighborEntry | None) -> None:
    attrs = {"NDA_DST": "10.0.0.12", "NDA_LLADDR": MAC_TEXT, **attrs}
    present = {name: value for name, value in attrs.items() if value is not None}
    assert neighbor_from(body(ndmsg(), present, **{"family": AF_INET, "ifindex": 2, "state": 2, **fields})) == expected


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"RTA_OIF": 2}, KernelRoute(NODE, 2)),
        ({"RTA_OIF": 2, "RTA_GATEWAY": "10.0.0.1"}, KernelRoute(NODE, 2, ROUTER)),
        ({"RTA_OIF": 2, "RTA_VIA": {"family": AF_INET6, "addr": "fe80::1"}}, KernelRoute(NODE, 2, ROUTER6)),
        ({"RTA_OIF": 2, "RTA_METRICS": {"attrs": [["RTAX_MTU", 1400]]}}, KernelRoute(NODE, 2, mtu=1400)),
        ({"RTA_OIF": 2, "RTA_METRICS": {"attrs": [["RTAX_HOPLIMIT", 9]]}}, KernelRoute(NODE, 2)),
        ({}, None),
    ],
)
def test_route(attrs: dict[str, Any], expected: KernelRoute | None) -> None:
    assert route_from(NODE, route_body(attrs)) == expected


def test_a_local_route_leads_nowhere() -> None:
    assert route_from(NODE, route_body({"RTA_OIF": 1}, LOCAL)) is None
    assert legs_of(route_body({"RTA_OIF": 1}, LOCAL)) == ()


def test_legs_are_all_next_hops_that_are_used() -> None:
    hops = [
        {"oif": 2, "hops": 0, "attrs": [["RTA_GATEWAY", "10.0.0.1"]]},
        {"oif": 3, "hops": 9},
        {"oif": 4, "flags": 1, "hops": 0, "attrs": [["RTA_GATEWAY", "10.0.0.1"]]},  # its interface is down
        {"oif": 5, "hops": 0, "attrs": [["RTA_VIA", {"family": AF_INET6, "addr": "fe80::1"}]]},
    ]
    assert legs_of(route_body({"RTA_OIF": 2})) == ((2, None),)
    assert legs_of(route_body({"RTA_OIF": 2, "RTA_GATEWAY": "10.0.0.1"})) == ((2, ROUTER),)
    assert legs_of(route_body({"RTA_MULTIPATH": hops})) == ((2, ROUTER), (3, None), (5, ROUTER6))
    assert legs_of(route_body({})) == ()
    assert legs_of(route_body({}) + pack_attribute(30, bytes((7, 0, 0, 0)))) == ((0, None),), "RTA_NH_ID alone"


def test_destination_of_a_route() -> None:
    assert destination_of(route_body({"RTA_DST": "10.5.0.0"}, dst_len=16)) == ip_network("10.5.0.0/16")
    assert destination_of(route_body({}, dst_len=0)) == ip_network("0.0.0.0/0")
    assert destination_of(route_body({}, family=AF_INET6, dst_len=0)) == ip_network("::/0")
    assert destination_of(route_body({}, family=AF_BRIDGE, dst_len=0)) is None
    assert destination_of(route_body({"RTA_DST": "10.5.0.0"}, dst_len=33)) is None, "no such prefix"


def test_requests_are_those_that_pyroute2_would_write() -> None:
    asked = route_request(NODE)
    assert asked == Request(RTM_GETROUTE, route_body({"RTA_DST": "10.0.0.12"}, kind=0))
    use = confirm_request((2, ROUTER6))
    assert use.body == body(ndmsg(), {"NDA_DST": "fe80::1"}, family=AF_INET6, ifindex=2, flags=1)
    message = rtmsg()
    message["header"]["type"], message["header"]["flags"], message["header"]["sequence_number"] = RTM_GETROUTE, 1, 77
    body(message, {"RTA_DST": "10.0.0.12"}, family=AF_INET, dst_len=32)
    assert pack(asked, 77) == bytes(message.data)


BODIES = [pack_attribute(1, bytes(length)) for length in (17, 18, 19)]
WHOLE = [Message(20, sequence, one) for sequence, one in enumerate(BODIES)]
DATAGRAM = b"".join(pack(Request(20, one), sequence) for sequence, one in enumerate(BODIES))


@pytest.mark.parametrize("length", range(len(DATAGRAM) + 1))
def test_what_is_truncated_ends_the_sequence(length: int) -> None:
    assert len(DATAGRAM) == 3 * 40
    assert list(messages(DATAGRAM[:length])) == WHOLE[: length // 40]


def test_a_length_that_cannot_be_ends_the_sequence() -> None:
    """A length of 0 would otherwise never end it."""
    good = pack_attribute(1, b"abcd")
    for length in (0, 3, 9, 0xFFFF):
        assert attributes(good + length.to_bytes(2, "little") + b"\2\0abcd") == {1: b"abcd"}
        assert list(messages(pack(Request(20, b""), 1) + length.to_bytes(4, "little") + bytes(12)))[1:] == []


def test_values_of_attributes() -> None:
    assert attributes(pack_attribute(8 | 0x8000, b"nested") + pack_attribute(999, b"?")) == {8: b"nested", 999: b"?"}
    assert (number(b"\1\0\0\0"), number(b"\1\0"), number(None)) == (1, 0, 0)
    assert (address(NODE.packed), address(ROUTER6.packed), address(b"\1\0"), address(None)) == (
        NODE,
        ROUTER6,
        None,
        None,
    )
    assert (error_code((-19 & 0xFFFFFFFF).to_bytes(4, "little")), error_code(bytes(4)), error_code(b"")) == (19, 0, 0)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    bodies = [
        data,
        *(bytes((family, bits, 0, 0, 0, 0, 0, UNICAST)) + data for family in (2, 10) for bits in (0, 24, 255)),
    ]
    for one in bodies:
        for parse in (neighbor_from, legs_of, interface_address_from, destination_of, error_code, attributes):
            parse(one)
        route_from(NODE, one)
        list(messages(one))
