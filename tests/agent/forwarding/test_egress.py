# SPDX-License-Identifier: Apache-2.0
"""The largest segment for each kind of tunnel, and the interfaces that get the filter."""

from ipaddress import ip_address

import pytest

from agent.config.schema import Config
from agent.forwarding.egress import interfaces, mss_limits
from agent.netlink.link import Link
from bpf.layout.service import Protocol, ServiceKey

FOUR, SIX = "192.0.2.10", "2001:db8::10"


def config(vip: str = FOUR, forward: str = "gue", outer: str = "ipv4", protocol: str = "tcp") -> Config:
    service = {"name": "web", "vip": vip, "protocol": protocol, "port": 443, "forward": forward}
    peer = {"address": "10.0.0.1", "as": 65000}
    return Config.model_validate(
        {
            "cluster": 1,
            "node": {"interface": "eth1"},
            "services": [{**service, "health": {"port": 80}}],
            "bgp": {"local_as": 65001, "identity_prefix": "10.254.0.0/16", "peers": [peer]},
            "members": {"allow": ["10.0.0.0/24"], "outer": outer},
        }
    )


@pytest.mark.parametrize(
    ("vip", "forward", "outer", "headers"),
    [
        (FOUR, "ipip", "ipv4", 20 + 20 + 20),
        (FOUR, "gue", "ipv4", 20 + 8 + 20 + 20),
        (FOUR, "ipip", "ipv6", 40 + 20 + 20),
        (FOUR, "gue", "ipv6", 40 + 8 + 20 + 20),
        (SIX, "ipip", "ipv4", 20 + 40 + 20),
        (SIX, "gue", "ipv4", 20 + 8 + 40 + 20),
        (SIX, "ipip", "ipv6", 40 + 40 + 20),
        (SIX, "gue", "ipv6", 40 + 8 + 40 + 20),
    ],
)
@pytest.mark.parametrize("mtu", [1300, 1500, 9000])
def test_a_full_packet_just_fits(vip: str, forward: str, outer: str, headers: int, mtu: int) -> None:
    key = ServiceKey(ip_address(vip), Protocol.TCP, 443)
    least = 1280 - 40 - 20 if vip == SIX else 0  # RFC 8201: no path of IPv6 is narrower
    assert mss_limits(config(vip, forward, outer), mtu) == {key: max(mtu - headers, least)}


def test_no_limit_without_a_tunnel_or_without_tcp() -> None:
    assert mss_limits(config(forward="l2"), 1500) == {}
    assert mss_limits(config(protocol="udp"), 1500) == {}


def test_tiny_mtu_gives_the_least_mss() -> None:
    assert set(mss_limits(config(), 68).values()) == {48}
    assert set(mss_limits(config(SIX), 68).values()) == {1220}


def test_interfaces_are_the_uplinks_and_the_egress_of_answers() -> None:
    mac = bytes(6)
    links = {i: Link(i, name, mac, 1500) for i, name in enumerate(("lo", "eth1", "eth2", "eth3"), 1)}
    links[9] = Link(9, "tun0", b"", 1500)
    assert interfaces(links, ("eth1",), []) == ["eth1"]
    assert interfaces(links, ("eth1",), [2]) == ["eth1"]
    assert interfaces(links, ("eth2", "eth1"), [4, 3, 4]) == ["eth2", "eth1", "eth3"]
    assert interfaces(links, ("eth1",), [9, 77]) == ["eth1"]
