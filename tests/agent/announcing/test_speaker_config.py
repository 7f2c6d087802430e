# SPDX-License-Identifier: Apache-2.0
"""ExaBGP's sessions from lb.yml and a node's addresses."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from agent.announcing.local_address import LocalAddresses
from agent.announcing.speaker_config import speaker_config
from agent.config.file import parse
from agent.errors import AgentError
from bgp.bfd.config import BfdTimers
from bgp.exabgp.config import USER, NeighborConfig
from bgp.exabgp.renderer import render_allowlist

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
  - {name: six, vip: "2001:db8:99::1", protocol: tcp, port: 443}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000}
    - {address: 10.0.1.1, as: 65002, local_as: 65009, hold_time_s: 30, source: 10.0.1.11, multihop: 3, passive: true}
    - {address: "2001:db8::1", as: 65000, families: [ipv6, ipv4], ttl_security: true, graceful_restart_s: 60}
    - {address: "fe80::1%eth0", as: 65000, password_file: secret, bfd: {interval_ms: 100}}
members: {allow: [10.0.0.0/24]}
"""
CONFIG = parse(TEXT, "lb.yml")
LOCAL = LocalAddresses(IPv4Address("10.0.0.11"), IPv6Address("2001:db8::b"), {"eth0": IPv6Address("fe80::b")})


def test_every_option_is_passed_on() -> None:
    speaker = speaker_config(CONFIG, LOCAL, {"fe80::1": b"horse"})
    assert (speaker.local_as, speaker.router_id, speaker.user) == (65001, LOCAL.address, USER)
    assert speaker.peers == (
        NeighborConfig(IPv4Address("10.0.0.1"), 65000, LOCAL.address, families=("ipv4",)),
        NeighborConfig(
            IPv4Address("10.0.1.1"), 65002, IPv4Address("10.0.1.11"), 30, local_as=65009, families=("ipv4",),
            multihop=3, passive=True,
        ),
        NeighborConfig(
            IPv6Address("2001:db8::1"), 65000, IPv6Address("2001:db8::b"), families=("ipv6", "ipv4"),
            ttl_security=True, graceful_restart_s=60,
        ),
        NeighborConfig(
            IPv6Address("fe80::1"), 65000, IPv6Address("fe80::b"), families=("ipv6",), password=b"horse",
            interface="eth0", bfd=BfdTimers(100, 3),
        ),
    )  # fmt: skip
    assert [(peer.address, peer.local_address) for peer in speaker.bfd_peers] == [("fe80::1%eth0", "fe80::b%eth0")]


def test_allowed_prefixes_are_the_own_identity_and_bgp_allow_or_the_vips() -> None:
    own = ip_network("10.254.0.11/32")
    speaker = speaker_config(CONFIG, LOCAL, {})
    assert speaker.allow == (own, ip_network("192.0.2.10"), ip_network("2001:db8:99::1"))
    assert speaker.learn == (CONFIG.bgp.identity_prefix,), "the others' identities are not ours to advertise"
    allowed = CONFIG.bgp.model_copy(update={"allow": (ip_network("192.0.2.0/24"), ip_network("2001:db8:99::/48"))})
    config = CONFIG.model_copy(update={"bgp": allowed})
    assert speaker_config(config, LOCAL, {}).allow == (own, *allowed.allow)


def test_pool_of_nat_is_allowed_exactly() -> None:
    config = parse(TEXT + "nat: {pool: 10.255.0.0/27}\n", "lb.yml")
    speaker, without = speaker_config(config, LOCAL, {}), speaker_config(CONFIG, LOCAL, {})
    assert speaker == replace(without, exactly=(ip_network("10.255.0.0/27"),))
    lines = [line for line in render_allowlist(speaker).splitlines() if line not in render_allowlist(without)]
    assert lines == ["exactly 10.255.0.0/27"]


def test_peer_without_a_local_address() -> None:
    with pytest.raises(AgentError, match=r"bgp\.peers\[2\]: the node's interface has no IPv6 address.*set source"):
        speaker_config(CONFIG, replace(LOCAL, address6=None), {})
    with pytest.raises(AgentError, match=r"bgp\.peers\[3\]: eth0 has no link-local address"):
        speaker_config(CONFIG, replace(LOCAL, link_local={}), {})
