# SPDX-License-Identifier: Apache-2.0
"""Worlds for generated frames: every kind of next hop and service together, and rows with various chains."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random

from support.oracle.echo import Echo
from support.oracle.world import Node, OtherEpoch, Row, Service, World
from support.proof.stage import ROWS
from support.proof.stage_sockets import CLIENT, VIP, Sockets

SECOND_VIP, NO_VIP = IPv4Address("10.99.0.2"), IPv4Address("10.99.0.3")
VIP6, SECOND_VIP6, NO_VIP6 = (IPv6Address(f"2001:db8:99::{number}") for number in (1, 2, 3))
CLIENT6 = IPv6Address("2001:db8:1::2")
# A /64 for each node, as on a routed fabric, and the same last word in all: only whole addresses distinguish nodes.
ME, ME6 = IPv4Address("10.0.0.11"), IPv6Address("2001:db8:0:1::b")
PEERS = tuple(IPv4Address(f"10.0.0.{tag}") for tag in range(12, 18))
PEERS6 = tuple(IPv6Address(f"2001:db8:0:{tag - 10:x}::b") for tag in range(12, 18))


def _node(index: int, **more: object) -> Node:
    tag = 10 + index
    addresses = {"address": IPv4Address(f"10.0.0.{tag}"), "address6": IPv6Address(f"2001:db8:0:{index:x}::b")}
    return Node(tag, f"02:00:00:00:00:{index:02x}", **{**addresses, **more})


NODES = {
    1: _node(1),
    2: _node(2),
    3: _node(3, outer6=True),
    4: _node(4, outer6=True, on_link=False, ifindex=7, source="02:00:00:00:77:77", vlan=5),
    5: _node(5, mtu=700, address6=None),
    6: _node(6, ifindex=9, source="02:00:00:00:99:99", mtu=9000),
    7: _node(7, on_link=False, vlan=9, mtu=1400),
    8: Node(0x1234, None, IPv4Address("10.0.18.52")),
}
SERVICES = {
    (VIP, 6, 7000): Service(1),
    (VIP, 17, 53): Service(2),
    (VIP, 6, 9000): Service(3),
    (VIP, 6, 80): Service(4, forward="ipip"),
    (VIP, 6, 443): Service(5, forward="gue", drop_no_member=True),
    (SECOND_VIP, 6, 0): Service(6, affinity=2),
    (SECOND_VIP, 6, 7000): Service(7, up=False, affinity=3, forward="gue"),
    (SECOND_VIP, 17, 0): Service(8, up=False, affinity=2, forward="ipip"),
    (VIP6, 6, 7000): Service(9),
    (VIP6, 17, 53): Service(10, forward="gue"),
    (VIP6, 6, 80): Service(11, forward="ipip", drop_no_member=True),
    (SECOND_VIP6, 17, 0): Service(12, affinity=2, forward="gue"),
    (SECOND_VIP6, 6, 443): Service(13, up=False, affinity=3),
}
NO_TABLE = 3
ECHO = Echo(4242, 4742, boot=0x1122334455667788, view=0xDEADBEEF, tables=0x12345678)
FIRST_FRAGMENTS = {
    (CLIENT, VIP, 6, 7): (Sockets.ESTABLISHED, 7000, False),
    (CLIENT, VIP, 17, 7): (40001, 53, True),
    (CLIENT6, VIP6, 17, 9): (40002, 53, True),
    (CLIENT6, VIP6, 6, 9): (40003, 80, True),
    (CLIENT, SECOND_VIP, 6, 7): (40004, 443, False),
}
"""By client, VIP, protocol and number of packets that the generator makes."""
DENIED = ("10.66.0.0/16", "2001:db8:66::/48", f"{CLIENT + 77}/32")


def world(
    seed: int,
    ipv6: bool = True,
    tunnels: bool = True,
    denied: bool = True,
    silent: bool = False,
    alternating: bool | None = None,
) -> World:
    """A world whose rows all have chains of their own, of any length, with and without this node.

    Without `ipv6` nothing in it wants that, as a program wants that was made without; without `tunnels` neither service
    nor node has any use for them; without `denied` there is no deny list. `silent`: two nodes are, one of them since a
    moment ago; there, clients may have addresses of 240.0.0.0/4, and other protocols are
    dropped. `alternating`: there are two epochs, and how their rows are put together; None: there is one.
    """
    choose = Random(seed)
    services = {
        key: service if tunnels else replace(service, forward="l2")
        for key, service in SERVICES.items()
        if ipv6 or key[0].version == 4
    }
    nodes = {index: node if ipv6 else replace(node, address6=None, outer6=False) for index, node in NODES.items()}
    if not tunnels:
        nodes[1] = replace(nodes[1], address=None, address6=None)
    if silent:
        nodes[2], nodes[6] = replace(nodes[2], silent=True), replace(nodes[6], silent=True, awaited=True)
    tables = _tables(choose, services.values())
    prefixes = tuple(ip_network(prefix) for prefix in ("10.0.0.0/16", "2001:db8::/48"))
    deny_list = tuple(ip_network(prefix) for prefix in DENIED if denied)
    echo = replace(ECHO, fresh=silent, ready=denied, epochs=(7, 0 if alternating is None else 8))
    secret = choose.randbytes(16)
    first = {key: shown for key, shown in FIRST_FRAGMENTS.items() if silent and (ipv6 or key[1].version == 4)}
    world = World(
        "02:00:00:00:00:01",
        1,
        nodes,
        secret,
        services,
        tables,
        {},
        prefixes,
        deny_list,
        echo=echo,
        first_fragments=first,
    )
    world = replace(world, class_e=silent, drop_other=silent, vlans={0, 5} if silent else {0, 5, 6})
    if alternating is None:
        return world
    return replace(world, other=OtherEpoch(choose.randbytes(16), _tables(choose, services.values()), alternating))


def _tables(choose: Random, services: Iterable[Service]) -> dict[int, list[Row]]:
    return {
        service.slot: [
            Row(tuple(choose.sample(sorted(NODES), choose.choice((0, 1, 2, 2, 3, 4, 4, 8)))), choose.random() < 0.3)
            for _ in range(ROWS)
        ]
        for service in services
        if service.slot != NO_TABLE
    }
