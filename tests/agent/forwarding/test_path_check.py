# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the paths of a node before an agent runs there, as a real kernel has them."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.two_links import ip, two_links

from agent.config.file import parse
from agent.forwarding.path_check import path_warnings, unreachable_backends
from agent.netlink.route import KernelRoute

OWN = ip_address("10.0.0.11")
CONFIG = """\
cluster: 7
node: {interface: eth0NODE}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
  - name: legacy
    vip: 192.0.2.11
    protocol: tcp
    port: 443
    mode: nat
    backends: [{address: 10.0.1.9, port: 80}, {address: 10.9.0.11, port: 80}, {address: 10.9.0.12, port: 80}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key: none}
nat: {pool: 10.255.0.0/27}
"""


def warnings(node: str = "") -> dict[str, str]:
    found = asyncio.run(path_warnings(parse(CONFIG.replace("NODE", node), "lb.yml"), OWN))
    return {one.field: one.problem for one in found}


@pytest.mark.lab
def test_missing_routes() -> None:
    with two_links():
        found = warnings(", clients: [198.51.100.0/24]")
        assert found.keys() == {"node.clients", "services[1].backends[1].address"}
        assert (
            "no route to clients in 198.51.100.0/24, so packets of 192.0.2.10, 192.0.2.11 are lost"
            in found["node.clients"]
        )
        ip("route", "add", "198.51.100.0/24", "via", "10.0.0.1")
        ip("route", "add", "10.9.0.0/24", "via", "10.0.1.1")
        assert warnings(", clients: [198.51.100.0/24]") == {}


@pytest.mark.lab
def test_strict_filter_while_answers_leave_by_another_interface() -> None:
    with two_links():
        Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("1")
        ip("route", "add", "default", "via", "10.0.1.1")
        (field, problem), *others = warnings(", rp_filter: refuse").items()
        assert (field, others) == ("node.rp_filter", [])
        assert problem.startswith("rp_filter is 1 on eth0, but answers to clients in 0.0.0.0/0 leave by eth1, so")
        assert warnings() == {}, "the agent makes it loose"
        ip("route", "replace", "default", "via", "10.0.0.1")
        assert warnings(", rp_filter: refuse") == {}


def test_unreachable_backends_are_one_warning_for_a_service() -> None:
    config = parse(CONFIG.replace("NODE", ""), "lb.yml")
    addresses = [backend.address for backend in config.services[1].backends]
    reached = {one: KernelRoute(one, 2, None, 0) for one in addresses}
    assert not list(unreachable_backends(config, reached))
    (one,) = unreachable_backends(config, reached | {addresses[1]: None})
    assert str(one) == (
        "services[1].backends[1].address: there is no route to 10.9.0.11: add it, or correct the address"
    )
    (several,) = unreachable_backends(config, dict.fromkeys(addresses))
    assert str(several) == (
        "services[1].backends[0].address: there is no route to 10.0.1.9 and 2 more of these backends: add it, or "
        "correct the address"
    )
    assert not list(unreachable_backends(config, {})), "addresses of this node are not looked up"
