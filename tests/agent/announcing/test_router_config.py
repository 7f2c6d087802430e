# SPDX-License-Identifier: Apache-2.0
"""lbctl announce config: the router's end of a node's bgp.peers, and what is refused."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.announcing.local_address import LocalAddresses
from agent.announcing.router_config import NodeAddress, own_addresses, router_config, routers_of
from agent.cli.main import main
from agent.config.file import parse
from agent.config.schema import Config
from agent.errors import AgentError
from bgp.bfd.config import BfdTimers

TEXT = """
cluster: 4242
node: {interface: eth1}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
  - {name: dns, vip: 192.0.2.10, protocol: udp, port: 53, health: {port: 53}}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  peers:
    - {address: 10.0.0.1, as: 65000, hold_time_s: 3}
    - {address: 10.0.0.2, as: 65001}
members: {allow: [10.0.0.0/24]}
"""
B1 = NodeAddress.of("b1", IPv4Address("10.0.0.11"))
B2 = NodeAddress.of("b2", IPv4Address("10.0.0.12"), 65002)


@pytest.fixture
def config() -> Config:
    return parse(TEXT, "lb.yml")


def test_nodes_are_the_routers_neighbors(config: Config) -> None:
    router = router_config(config, config.bgp.peers[:1], [B1, B2])
    assert (router.asn, str(router.router_id)) == (65000, "10.0.0.1")
    assert [(n.name, str(n.address), n.asn) for n in router.neighbors] == [
        ("b1", "10.0.0.11", 65001),
        ("b2", "10.0.0.12", 65002),
    ]
    assert [str(n.identity) for n in router.neighbors] == ["10.254.0.11/32", "10.254.0.12/32"]
    session = router.neighbors[0].session
    assert (str(session.local), session.hold_time_s, session.internal, session.passive) == ("10.0.0.1", 3, False, True)
    assert [str(vip) for vip in router.vips] == ["192.0.2.10/32"], "two services of a VIP are one prefix"


def test_pools_of_nat_are_the_routers_too(config: Config) -> None:
    with_pool = parse(f"{TEXT}nat: {{pool: 10.255.0.0/27}}\n", "lb.yml")
    router = router_config(with_pool, config.bgp.peers[:1], [B1])
    assert [str(pool) for pool in router.pools] == ["10.255.0.0/27"]
    assert router == replace(router_config(config, config.bgp.peers[:1], [B1]), pools=router.pools)


def test_router_in_the_nodes_as_has_an_internal_session(config: Config) -> None:
    router = router_config(config, config.bgp.peers[1:], [B1, B2])
    assert [n.session.internal for n in router.neighbors] == [True, False]


def test_peers_of_two_ases_are_not_one_router(config: Config) -> None:
    with pytest.raises(AgentError, match=r"10.0.0.1 AS 65000, 10.0.0.2 AS 65001: these cannot be one router"):
        router_config(config, config.bgp.peers, [B1])


def test_node_needs_an_address_of_the_routers_family(config: Config) -> None:
    with pytest.raises(AgentError, match=r"10.0.0.1: no node has an address of its kind \(IPv4\)"):
        router_config(config, config.bgp.peers[:1], [replace(B1, address=ip_address("fd00::11"))])


OPTIONS = """
    - address: 10.0.0.3
      as: 65000
      local_as: 65009
      password_file: secret
      ttl_security: true
      passive: true
      families: [ipv4, ipv6]
      bfd: {interval_ms: 200, multiplier: 4}
    - {address: 10.0.9.9, as: 65000, multihop: 3}
    - {address: fd00::1, as: 65000}
    - {address: "fe80::1%eth1", as: 65000}
"""


@pytest.fixture
def options() -> Config:
    allow = "[192.0.2.0/24, 2001:db8::/48]"
    text = TEXT.replace("    - {address: 10.0.0.2, as: 65001}\n", OPTIONS[1:])
    return parse(text.replace("  local_as: 65001\n", f"  local_as: 65001\n  allow: {allow}\n"), "lb.yml")


def test_each_option_of_a_peer_has_its_counterpart(options: Config) -> None:
    _, guarded, far, v6, link = options.bgp.peers
    router = router_config(options, [guarded], [B1])
    (neighbor,) = router.neighbors
    session = neighbor.session
    assert neighbor.asn == 65009
    assert not session.passive, "the node waits, so the router must connect"
    assert (session.ttl_security, session.password_file, session.families) == (True, "secret", ("ipv4", "ipv6"))
    assert session.bfd == BfdTimers(200, 4)
    assert [str(prefix) for prefix in router.vips] == ["192.0.2.0/24", "2001:db8::/48"]
    assert router_config(options, [far], [B1]).neighbors[0].session.multihop == 3
    both = router_config(options, [options.bgp.peers[0], v6], [B1, NodeAddress.of("b1", ip_address("fd00::11"))])
    assert [n.name for n in both.neighbors] == ["b1", "b1_v6"]
    assert (both.families, str(both.router_id)) == (("ipv4", "ipv6"), "10.0.0.1")
    with pytest.raises(AgentError, match="no IPv4 address here; give --router-id"):
        router_config(options, [v6], [NodeAddress.of("b1", ip_address("fd00::11"))])
    local = NodeAddress.of("b1", ip_address("fe80::11%eth3"))
    router = router_config(options, [link], [B1, local], IPv4Address("10.0.0.1"))
    assert [(n.with_zone, str(n.session.local)) for n in router.neighbors] == [("fe80::11%eth3", "fe80::1")]


def test_a_sessions_identity_is_that_of_the_node_not_of_the_address(options: Config) -> None:
    v6 = options.bgp.peers[3].model_copy(update={"families": ("ipv4", "ipv6")})
    node = NodeAddress.of("b1", ip_address("fd00::99"), node=IPv4Address("10.0.0.11"))
    (neighbor,) = router_config(options, [v6], [node], IPv4Address("10.0.0.1")).neighbors
    assert str(neighbor.identity) == "10.254.0.11/32"
    with pytest.raises(AgentError, match=r"fd00::99: which node's .* --node b1=fd00::99,NODE-ADDRESS"):
        router_config(options, [v6], [replace(node, node=None)], IPv4Address("10.0.0.1"))
    local = LocalAddresses(IPv4Address("10.0.0.11"), IPv6Address("fd00::11"))
    assert [n.node for n in own_addresses([v6], local)] == [IPv4Address("10.0.0.11")]


def test_equal_numbers_of_ipv4_and_ipv6_addresses_are_paired(options: Config) -> None:
    a, b, c, v6, link = options.bgp.peers
    assert routers_of([a, v6]) == [[a, v6]]
    assert routers_of([a, b, link, v6]) == [[a, link], [b, v6]]
    assert routers_of([a, b, v6]) == [[a], [b], [v6]]
    assert routers_of([a, c]) == [[a], [c]]
    other = a.model_copy(update={"asn": 65010})
    assert routers_of([other, a, v6]) == [[other], [a, v6]]


def test_own_addresses_are_those_of_the_sessions(options: Config) -> None:
    local = LocalAddresses(IPv4Address("10.0.0.11"), IPv6Address("fd00::11"), {"eth1": IPv6Address("fe80::11")})
    plain, guarded, far, v6, link = options.bgp.peers
    assert [n.name for n in own_addresses([plain, guarded, far, v6], local)] == ["node_10_0_0_11", "node_fd00_11"]
    with pytest.raises(AgentError, match=r"fe80::1%eth1: which interface .* --node fe80::11%INTERFACE"):
        own_addresses([link], local)


def run(tmp_path: Path, *arguments: str) -> Result:
    path = tmp_path / "lb.yml"
    path.write_text(TEXT)
    return CliRunner().invoke(main, ["announce", "config", "-c", str(path), *arguments])


@pytest.mark.parametrize("kind", ["bird", "frr", "gobgp", "openbgpd"])
def test_each_router_of_the_configuration_is_printed(tmp_path: Path, kind: str) -> None:
    done = run(tmp_path, "--router", kind, "--node", "b1=10.0.0.11", "--node", "10.0.0.12@65002")
    assert done.exit_code == 0, done.output
    assert done.output.count("The router's configuration for anylb") == 2
    assert "10.0.0.12" in done.output
    assert "65002" in done.output
    alone = run(tmp_path, "--router", kind, "--node", "b1=10.0.0.11", "--peer", "10.0.0.2")
    assert alone.output.count("The router's configuration for anylb") == 1
    assert "65000" not in alone.output


@pytest.mark.parametrize(
    ("nodes", "identity"),
    [
        (["b1=10.1.0.11,10.0.0.99"], "10.254.0.99"),
        (["b1=10.0.0.99", "b1=fd00::1"], "10.254.0.99"),
        (["b1=10.0.0.99@65002"], "10.254.0.99"),
    ],
)
def test_node_is_named_by_its_own_address(tmp_path: Path, nodes: list[str], identity: str) -> None:
    options = [word for node in nodes for word in ("--node", node)]
    done = run(tmp_path, "--router", "bird", "--peer", "10.0.0.1", *options)
    assert f"import where net = {identity}/32 ||" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--router", "cisco"], 2, "is not one of"),
        (["--node", "10.0.0.300"], 2, "'10.0.0.300' does not appear to be an IPv4 or IPv6 address"),
        (["--node", "b-1=10.0.0.11"], 2, "is not [NAME=]ADDRESS[@AS][,NODE]"),
        (["--node", "10.0.0.11@0"], 2, "0 is not in 1-4294967294"),
        (["--node", "10.0.0.11,10.0.0.300"], 2, "Octet 300"),
        (["--peer", "10.0.0.9"], 2, "10.0.0.9 is not in bgp.peers of"),
        (["--router-id", "x"], 2, "x is not an IPv4 address"),
        (["--node", "10.0.0.11", "--node", "10.0.0.11"], 1, "give each node's address once"),
        ([], 1, "or name the router's nodes with --node"),
    ],
)
def test_error_is_one_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(tmp_path, "--router", "bird", *arguments)
    assert done.exit_code == code
    assert message in done.output
    assert "protocol" not in done.output
