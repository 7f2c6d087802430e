# SPDX-License-Identifier: Apache-2.0
"""The filters of printed configurations, in BIRD and FRR: a node announces VIPs, the pool of NAT and its own
identity, and no more.

    b1 10.0.0.11 ──┐
     65001         ├── router 10.0.0.1 (the bridge is inside it), 65000: as `lbctl announce config` prints it
    b2 10.0.0.12 ──┘

The speakers are ExaBGP alone: no relay is between them and the router. The control is the same router without filters.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.waiting import wait_for

from agent.cli.main import main
from topology.lab.lab import Lab

pytestmark = pytest.mark.lab

LB = """
cluster: 4242
node: {interface: eth1}
services:
  - {name: web, vip: 10.99.0.1, protocol: tcp, port: 443}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  allow: [10.99.0.0/24]
  peers:
    - {address: 10.0.0.1, as: 65000, hold_time_s: 3}
members: {allow: [10.0.0.0/24]}
nat: {pool: 10.255.0.0/27}
"""
LAB = """
name: filters
topology:
  defaults: {{kind: linux, image: anylb/lab, network-mode: none}}
  nodes:
    router:
      binds: ["{folder}/{router}.conf:/etc/{router}/{router}.conf:ro"]
      exec:
        - ip link add br0 type bridge
        - ip link set eth1 master br0
        - ip link set eth2 master br0
        - ip link set br0 up
        - ip address add 10.0.0.1/24 dev br0
        {start}
    b1: {{exec: [ip address add 10.0.0.11/24 dev eth1], binds: ["{folder}:/etc/speaker:ro"]}}
    b2: {{exec: [ip address add 10.0.0.12/24 dev eth1], binds: ["{folder}:/etc/speaker:ro"]}}
  links:
    - {{endpoints: ["b1:eth1", "router:eth1"], mtu: 1500}}
    - {{endpoints: ["b2:eth1", "router:eth2"], mtu: 1500}}
"""
START = {
    "bird": ["mkdir -p /run/bird", "bird -c /etc/bird/bird.conf"],
    "frr": [
        "install -d -o frr -g frr /run/frr /var/log/frr /var/tmp/frr",
        "/usr/lib/frr/zebra -d -A 127.0.0.1",
        "/usr/lib/frr/bgpd -d -A 127.0.0.1",
        "vtysh -b",
    ],
}
SPEAKER = """
neighbor 10.0.0.1 {{
  router-id {own}; local-address {own}; local-as 65001; peer-as 65000; hold-time 3;
  family {{ ipv4 unicast; }}
  static {{ {routes} }}
}}
"""
FILTERS = {
    "bird": [(r"import where [^;]*;", "import all;"), (r"export where net ~[^;]*;", "export where source = RTS_BGP;")],
    "frr": [(r"(?m)^  neighbor \S+ (route-map|prefix-list) .*$", "")],
}
LIMIT = 16
OWN, VIP, POOL = "10.254.0.11/32", "10.99.0.1/32", "10.255.0.0/27"
FOREIGN = (
    *("10.254.0.12/32", "10.98.0.0/24", "192.0.2.1/32", "10.99.0.0/24", "0.0.0.0/0"),
    *("10.255.0.0/28", "10.255.0.0/26", "10.255.0.1/32"),
)
MANY = tuple(f"10.99.0.{host}/32" for host in range(100, 140))


def address(node: str) -> str:
    """Return a node's address."""
    return f"10.0.0.{10 + int(node[1])}"


class FilterLab:
    """The lab, and the routes of its router."""

    def __init__(self, lab: Lab, router: str, folder: Path) -> None:
        self.lab, self.router, self.folder = lab, router, folder

    def speak(self, node: str, *prefixes: str) -> None:
        """Announce these prefixes, in this order, until the lab ends."""
        own = address(node)
        routes = " ".join(f"route {prefix} next-hop {own};" for prefix in prefixes)
        (self.folder / f"{node}.conf").write_text(SPEAKER.format(own=own, routes=routes))
        command = ["env", "exabgp.daemon.user=root", "exabgp", "server", f"/etc/speaker/{node}.conf"]
        self.lab.spawn(node, command, log=self.folder / f"{node}.log")

    def accepted(self, node: str) -> set[str]:
        """Return the prefixes that the router has from a node."""
        if self.router == "bird":
            return self._bird("protocol", node)
        routes = json.loads(self._vtysh("show bgp ipv4 unicast json") or "{}").get("routes", {})
        return {prefix for prefix, paths in routes.items() if any(path["peerId"] == address(node) for path in paths)}

    def frr_state(self, node: str) -> str:
        """Return the state of FRR's session with a node."""
        shown = json.loads(self._vtysh("show bgp ipv4 unicast summary json"))
        return str(shown["peers"][address(node)]["state"])

    def sent(self, node: str) -> set[str]:
        """Return the prefixes that the router advertises to a node."""
        if self.router == "bird":
            return self._bird("export", node)
        shown = json.loads(self._vtysh(f"show bgp ipv4 neighbors {address(node)} advertised-routes json"))
        return set(shown["advertisedRoutes"])

    def _bird(self, *words: str) -> set[str]:
        shown = self.lab.exec("router", ["birdc", "show", "route", *words], check=False).stdout
        return set(re.findall(r"^(\d\S+/\d+)", shown, re.MULTILINE))

    def _vtysh(self, command: str) -> str:
        return self.lab.exec("router", ["vtysh", "-c", command], check=False).stdout


@pytest.fixture
def filter_lab(router: str, filters: bool, tmp_path: Path) -> Iterator[FilterLab]:
    (tmp_path / "lb.yml").write_text(LB)
    nodes = ["--node", "b1=10.0.0.11", "--node", "b2=10.0.0.12"]
    command = ["announce", "config", "--router", router, "-c", str(tmp_path / "lb.yml"), *nodes]
    printed = CliRunner().invoke(main, command)
    assert printed.exit_code == 0, printed.output
    text = printed.output
    for pattern, replacement in () if filters else FILTERS[router]:
        text, changed = re.subn(pattern, replacement, text)
        assert changed, pattern
    (tmp_path / f"{router}.conf").write_text(text)
    start = "\n        ".join(f"- {one}" for one in START[router])
    file = tmp_path / "filters.clab.yml"
    file.write_text(LAB.format(folder=tmp_path, router=router, start=start))
    with Lab.up(file, name=f"filters-{router}-{os.getpid()}", keep=False) as lab:
        yield FilterLab(lab, router, tmp_path)


@pytest.mark.parametrize("router", ["bird", "frr"])
@pytest.mark.parametrize("filters", [True], ids=["filters"])
def test_node_announces_vips_pool_and_its_own_identity_and_receives_identities(filter_lab: FilterLab) -> None:
    more = tuple(f"198.51.100.{host}/32" for host in range(2 * LIMIT))  # refused ones use up no limit
    filter_lab.speak("b1", *FOREIGN, *more, OWN, VIP, POOL)
    filter_lab.speak("b2", "10.254.0.12/32", VIP)
    wait_for(lambda: filter_lab.accepted("b1") >= {OWN, VIP, POOL}, "b1's own routes")
    wait_for(lambda: filter_lab.accepted("b2") == {"10.254.0.12/32", VIP}, "b2's own routes")
    wait_for(lambda: filter_lab.sent("b2") >= {OWN}, "b2 learns of b1")
    assert filter_lab.accepted("b1") == {OWN, VIP, POOL}
    assert filter_lab.sent("b2") - {"10.254.0.12/32"} == {OWN}, "a router may return a node's own"


@pytest.mark.parametrize("router", ["bird", "frr"])
@pytest.mark.parametrize("filters", [False], ids=["control"])
def test_without_filters_a_node_announces_anything(filter_lab: FilterLab) -> None:
    filter_lab.speak("b1", *FOREIGN, OWN, VIP)
    filter_lab.speak("b2", "10.254.0.12/32", VIP)
    wait_for(lambda: filter_lab.accepted("b1") == {*FOREIGN, OWN, VIP}, "everything from b1")
    wait_for(lambda: filter_lab.sent("b2") >= {"10.98.0.0/24", "192.0.2.1/32", OWN}, "everything to b2")


@pytest.mark.parametrize("router", ["bird", "frr"])
@pytest.mark.parametrize("filters", [True], ids=["filters"])
def test_too_many_vips_cost_the_node_that_announces_them(filter_lab: FilterLab) -> None:
    filter_lab.speak("b2", "10.254.0.12/32", VIP)
    wait_for(lambda: filter_lab.accepted("b2") == {"10.254.0.12/32", VIP}, "b2's own routes")
    filter_lab.speak("b1", OWN, VIP, *MANY)
    if filter_lab.router == "bird":
        wait_for(lambda: len(filter_lab.accepted("b1")) == LIMIT, "as many as the limit")
    else:
        wait_for(lambda: filter_lab.frr_state("b1") == "Idle (PfxCt)", "the session ends")
        wait_for(lambda: not filter_lab.accepted("b1"), "its routes to go with it")
    assert filter_lab.accepted("b2") == {"10.254.0.12/32", VIP}
