# SPDX-License-Identifier: Apache-2.0
"""Which paths are too narrow for IPv6 in tunnels, and the problems that name them."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from agent.config.service import ServiceConfig
from agent.forwarding.narrow_path import least_mtus, problems, tunnel_room
from bpf.layout.node import NodeEntry


def service(name: str, vip: str, forward: str) -> ServiceConfig:
    health: dict[str, Any] = {"port": 80}
    fields = {"name": name, "vip": vip, "protocol": "tcp", "port": 443, "forward": forward, "health": health}
    return ServiceConfig.model_validate(fields)


def node(mtu: int, outer6: bool = False) -> NodeEntry:
    return NodeEntry(
        IPv4Address("10.0.0.12"), 12, bytes(6), address6=IPv6Address("2001:db8::c"), outer6=outer6, mtu=mtu
    )


FOUR = service("web", "192.0.2.10", "gue")
GUE, IPIP, L2 = (service(f"{forward}6", "2001:db8::10", forward) for forward in ("gue", "ipip", "l2"))


@pytest.mark.parametrize(
    ("services", "over_ipv4", "over_ipv6"),
    [([FOUR, L2], 0, 0), ([IPIP, L2], 1300, 1320), ([GUE], 1308, 1328), ([IPIP, GUE, FOUR], 1308, 1328)],
)
def test_least_mtu(services: list[ServiceConfig], over_ipv4: int, over_ipv6: int) -> None:
    assert least_mtus(services) == {False: over_ipv4, True: over_ipv6}


def test_the_least_mtu_leaves_1280_bytes() -> None:
    for one in (GUE, IPIP):
        for outer6, mtu in least_mtus([one]).items():
            assert tunnel_room(node(mtu, outer6), one.forward) == 1280


def test_a_problem_names_node_services_and_the_next_step() -> None:
    services = [FOUR, GUE, IPIP, L2]
    (line,) = problems([node(1300)], services)
    assert line == (
        "the path to 10.0.0.12 has an MTU of 1300, too small for IPv6 in tunnels over IPv4: new connections of gue6 do "
        "not go there, and stay at the node that gets them if no other is left: raise the MTU on the path to 1308"
    )
    (line,) = problems([node(1300, outer6=True)], services)
    assert "over IPv6: new connections of gue6, ipip6 do" in line
    assert line.endswith("to 1328")
