# SPDX-License-Identifier: Apache-2.0
"""Options of a BGP peer on the wire, checked at real routers (wire_lab.py).

Those that both ends must have are in test_session_mismatch_lab.py.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.waiting import wait_for
from support.wire_lab import LBCTL, PLAIN, TO_R1, VIP, VIP6, WireLab, session

from bgp.route import Route

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireLab]:
    with WireLab.up(tmp_path_factory.mktemp("wire"), f"wire-{os.getpid()}") as wire:
        yield wire


@pytest.fixture
def wire(lab: WireLab) -> Iterator[WireLab]:
    yield lab
    lab.stop_nodes()
    for router in lab.IDS:
        lab.configure(router, "")


def six(name: str, address: str, **more: object) -> str:
    return session(f"{name}_6", address, local="2001:db8::1", families=("ipv6",), **more)  # type: ignore[arg-type]


def test_ipv6_vip_over_ipv6_sessions_has_both_next_hops_in_the_kernel(wire: WireLab):
    wire.configure("r1", PLAIN + six("b1", wire.b1.address6) + six("b2", wire.b2.address6))
    for node in (wire.b1, wire.b2):
        node.start(TO_R1, "{address: '2001:db8::1', as: 65000, hold_time_s: 3}")
    both6 = {wire.b1.address6, wire.b2.address6}
    wait_for(lambda: wire.next_hops("r1", VIP6) == both6, "the IPv6 VIP by two next hops")
    wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.11", "10.0.0.12"}, "and the IPv4 one")
    wait_for(lambda: "10.254.0.11/32" in wire.received("r1", "b1"), "and b1's identity")
    assert wire.received("r1", "b1_6") == {VIP6}, "no IPv4 on that session"
    assert wire.received("r1", "b1") == {VIP, "10.254.0.11/32"}, "and no IPv6 on the other"
    wire.b2.desired = [route for route in wire.b2.default_routes if route.prefix != VIP6]
    wait_for(lambda: wire.next_hops("r1", VIP6) == {wire.b1.address6}, "withdrawn by b2")
    assert wire.next_hops("r1", VIP) == {"10.0.0.11", "10.0.0.12"}
    wait_for(lambda: wire.b1.snapshot.error is None, "no error")


def test_agent_announces_an_ipv6_vip_and_its_status_shows_it(wire: WireLab):
    wire.configure("r1", session("b1", "10.0.0.11") + six("b1", wire.b1.address6))
    wire.b1.configure(TO_R1, "{address: '2001:db8::1', as: 65000, hold_time_s: 3}")
    wire.b1.start_speaker()
    server = wire.lab.spawn("b1", [sys.executable, "-m", "http.server", "--bind", "::", "80"])
    agent = wire.lab.spawn("b1", [LBCTL, "agent", "run", "--xdp", "off"], log=wire.folder / "agent.log")
    try:
        wait_for(lambda: wire.next_hops("r1", VIP6) == {wire.b1.address6}, "the IPv6 VIP")
        wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.11"}, "the IPv4 VIP")
        both = {"10.99.0.1": True, "2001:db8:99::1": True}

        def status() -> Any:
            return json.loads(wire.lab.exec("b1", [LBCTL, "status", "-o", "json"]).stdout)

        wait_for(lambda: {vip["vip"]: vip["announced"] for vip in status()["vips"]} == both, "the status to show both")
        wait_for(lambda: status()["bgp"]["error"] is None, "no error")
    finally:
        for process in (agent, server):
            process.kill()
            process.wait()


def test_both_families_over_one_ipv6_session_with_next_hops_of_their_own(wire: WireLab):
    own = session("b1", wire.b1.address6, local="2001:db8::1", families=("ipv4", "ipv6"))
    wire.configure("r1", own)
    wire.b1.start("{address: '2001:db8::1', as: 65000, hold_time_s: 3, families: [ipv4, ipv6]}")
    wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.11"}, "an IPv4 next hop, not the session's address")
    wait_for(lambda: wire.next_hops("r1", VIP6) == {wire.b1.address6}, "an IPv6 one")
    # A router that negotiates one family only: an error, and the other family works.
    wire.configure("r1", session("b1", wire.b1.address6, local="2001:db8::1", families=("ipv4",)))
    wait_for(lambda: "does not accept ipv6" in (wire.b1.snapshot.error or ""), "the error")
    wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.11"}, "IPv4 is back")
    wait_for(lambda: wire.b1.snapshot.advertised == {VIP, "10.254.0.11/32"}, "the advertised prefixes")


def test_link_local_peer(wire: WireLab):
    own = session("b1", "fe80::11%br0", local="fe80::1", families=("ipv6", "ipv4"))
    wire.configure("r1", own)
    wire.b1.start("{address: 'fe80::1%eth1', as: 65000, hold_time_s: 3, families: [ipv4, ipv6]}")
    wait_for(lambda: wire.next_hops("r1", VIP6) == {wire.b1.address6}, "the IPv6 VIP")
    wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.11"}, "the IPv4 VIP")


def test_two_routers_at_once_each_with_its_own_as_source_and_prepending(wire: WireLab):
    wire.configure("r1", session("b1", "10.0.0.11"))
    wire.configure("r2", session("b1", "10.0.1.11", local="10.0.1.1", own_as=65002, peer_as=65009))
    wire.b1.start(
        TO_R1.replace("hold_time_s: 3", "hold_time_s: 20"),
        "{address: 10.0.1.1, as: 65002, local_as: 65009, hold_time_s: 30, source: 10.0.1.11}",
        announce="med: 7, prepend: 2, communities: ['65000:100'], large_communities: ['65000:1:2']",
    )
    route = Route.of(VIP, "10.0.0.11", [[65000, 1, 2]], communities=[[65000, 100], [65535, 65281]], med=7, prepend=2)
    route = replace(route, next_hop_self=True)
    wire.b1.desired = [wire.b1.identity, route]
    for router, path in (("r1", "65001 65001 65001"), ("r2", "65009 65009 65009")):
        wait_for(lambda r=router, p=path: p in wire.attributes(r, VIP), f"the VIP at {router}")  # type: ignore[misc]
        shown = wire.attributes(router, VIP)
        assert re.search(rf"as_path: {path}$", shown, re.MULTILINE), shown
        assert re.search(r"med: 7$", shown, re.MULTILINE), shown
        assert "(65000,100)" in shown
        assert "(65535,65281)" in shown, "no-export"
        assert "(65000, 1, 2)" in shown
    wait_for(lambda: wire.next_hops("r1", VIP) == {"10.0.0.11"}, "the route in r1's kernel")
    wait_for(lambda: wire.next_hops("r2", VIP) == {"10.0.1.11"}, "our address of that session in r2's")
    assert re.search(r"Hold timer:.*/20\b", wire.birdc("r1", "show", "protocols", "all", "b1"))
    wire.b1.desired = [wire.b1.identity, replace(route, prepend=0, med=None, communities=())]
    wait_for(lambda: "65009 65009" not in wire.attributes("r2", VIP), "replaced at r2")
    wait_for(lambda: VIP in wire.attributes("r1", VIP) and "med" not in wire.attributes("r1", VIP), "and at r1")
    # One router dies: the other session stays.
    mark = wire.session_since("r1", "b1")
    wire.birdc("r2", "disable", "b1")
    wait_for(lambda: {p.address: p.up for p in wire.b1.snapshot.peers} == {"10.0.0.1": True, "10.0.1.1": False}, "one")
    assert wire.session_since("r1", "b1") == mark
    wire.birdc("r2", "enable", "b1")
    wait_for(lambda: VIP in wire.received("r2", "b1"), "back")


def test_only_allowed_routes_are_advertised_and_no_learned_route_is_installed(wire: WireLab):
    wire.configure("r1", PLAIN + "protocol static bait { ipv4; route 198.51.100.0/24 blackhole; }\n")
    exported = "export where source ~ [RTS_BGP, RTS_STATIC]"
    baited = PLAIN.replace("export where source = RTS_BGP", exported)
    wire.configure("r1", baited + "protocol static bait { ipv4; route 198.51.100.0/24 blackhole; }\n")
    before = wire.b1.kernel_routes()

    def learned() -> set[str]:
        return {route.prefix for peer in wire.b1.snapshot.peers for route in peer.routes}

    wire.b1.start(TO_R1, allow="[10.99.0.0/24, '2001:db8:99::/48']")
    wire.b2.start(TO_R1)
    stolen = ["0.0.0.0/0", "10.99.0.0/31", "203.0.113.9/32", wire.b2.identity.prefix]
    wire.b1.desired = [*wire.b1.default_routes, *(Route.of(prefix, "10.0.0.11") for prefix in stolen)]
    wait_for(lambda: VIP in wire.received("r1", "b1"), "the VIP")
    wait_for(lambda: "bgp.allow" in (wire.b1.snapshot.error or ""), "the refusal in the snapshot")
    wait_for(
        lambda: [p.foreign for p in wire.b1.snapshot.peers] == [1],
        lambda: f"no bait; {wire.b1.snapshot.peers}, r1 has {wire.birdc('r1', 'show route all')}",
    )
    wait_for(lambda: "10.254.0.12/32" in learned(), "an identity was learned")
    assert "198.51.100.0/24" not in learned()
    wait_for(lambda: wire.received("r1", "b1") == {VIP, "10.254.0.11/32"}, "the VIP and the identity alone")
    assert wire.b1.kernel_routes() == before
