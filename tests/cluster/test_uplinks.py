# SPDX-License-Identifier: Apache-2.0
"""Two uplinks and both families, live: uplinks/uplinks.clab.yml with BIRD, ExaBGP, agents and XDP.

Packets that enter from the router by eth1 leave to their owner by eth2 (bpf_redirect), in tunnels of either family;
VIPs are IPv4 and IPv6. Counters at the other ends of both links prove that the frames left by eth2 and not by eth1.
"""

import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.bulk_transfer import SIZE, STALL_S, BulkServers, download, upload
from support.cluster_lab import ClusterLab, cluster_lab, server_of
from support.waiting import wait_for

from topology.errors import LabError
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
FILE = Path(__file__).parent / "uplinks/uplinks.clab.yml"
NODES = ("b1", "b2", "b3")
VIPS = {"four": "10.99.0.1", "six-gue": "fd99::1", "six-ipip": "fd99::2"}
OUTER_HEADER = {"ipv4": 20, "ipv6": 40}
UDP_HEADER, TCP_HEADER, TIME_STAMPS = 8, 20, 12
MANY = 120
"""Connections: so many that no count of theirs is a matter of luck."""


@dataclass(frozen=True)
class Uplinks:
    """The lab, and the family of its tunnels."""

    cluster: ClusterLab
    outer: str

    def run(self, node: str, *command: str, check: bool = True) -> str:
        return self.cluster.lab.exec(node, command, check=check).stdout

    def counted(self, service: str, counter: str) -> int:
        """Return the sum of a service's counter over all nodes."""
        found = self.cluster.service_counters(service, NODES)
        return sum(counters.get(counter, 0) for counters in found.values())

    def received(self, router: str) -> int:
        """Return the frames that a router received from the nodes."""
        links: list[Any] = json.loads(self.run(router, "ip", "-j", "-s", "link"))
        return sum(link["stats64"]["rx"]["packets"] for link in links if link["ifname"] in ("eth1", "eth2", "eth3"))

    def connect(self, service: str, port: int = 7000) -> socket.socket:
        return self.cluster.connect(VIPS[service], port)

    def forget_path_mtu(self) -> None:
        """Drop the path MTUs that the client has cached with its routes."""
        for gateway in ("10.1.0.1", "fd01::1"):
            self.run("client", "ip", "route", "del", "default", "via", gateway)
            self.run("client", "ip", "route", "add", "default", "via", gateway)


@pytest.fixture(scope="module", params=["ipv4", "ipv6"])
def uplinks(request: pytest.FixtureRequest) -> Iterator[Uplinks]:
    outer = str(request.param)
    with cluster_lab(f"uplinks-{outer}", FILE, {"OUTER": outer}) as cluster:
        wait_for(lambda: settled(cluster), "equal tables with all three, and their routes")
        yield Uplinks(cluster, outer)


def settled(cluster: ClusterLab) -> bool:
    """Whether all nodes are ready and use equal rows of each service, in which all three serve, and the router has all
    of their routes."""
    try:
        statuses = [cluster.status(node) for node in NODES]
    except LabError:
        return False
    serving = [[[m["effective"] > 0 for m in s["members"]] for s in status["services"]] for status in statuses]
    digests = {tuple(s["digest"] for s in status["services"]) for status in statuses}
    return (
        all(status["ready"] and status["tables_written"] for status in statuses)
        and serving == [[[True] * len(NODES)] * len(VIPS)] * len(NODES)
        and len(digests) == 1
        and all(len(hops(cluster, vip)) == len(NODES) for vip in VIPS.values())
    )


def hops(cluster: ClusterLab, vip: str) -> list[str]:
    """Return the gateways by which the router's kernel routes a VIP."""
    family = "-6" if ":" in vip else "-4"
    routes = json.loads(cluster.lab.exec("router", ["ip", family, "-j", "route", "show", vip]).stdout or "[]")
    return [leg["gateway"] for route in routes for leg in route.get("nexthops", [route]) if "gateway" in leg]


@pytest.mark.parametrize("service", VIPS)
def test_packets_enter_by_one_uplink_and_leave_by_the_other(uplinks: Uplinks, service: str) -> None:
    sent, received = uplinks.counted(service, "forward_first"), uplinks.counted(service, "rx_tunnel")
    back, router = uplinks.received("back"), uplinks.received("router")
    found, began = set(), time.monotonic()
    for _ in range(MANY):
        with uplinks.connect(service) as one:
            found.add(server_of(one))
    assert found == set(NODES)
    sent = uplinks.counted(service, "forward_first") - sent
    assert sent > 2 * MANY, "two of three connections go to another node, with four packets and more"
    wait_for(
        lambda: uplinks.counted(service, "rx_tunnel") - received >= sent, "all tunneled packets to be decapsulated"
    )
    assert uplinks.received("back") - back >= sent
    # By eth1 only the answers left: SYN-ACK, data, ACKs and FIN, no more packets than each client sent; and BGP's.
    own = 60 * (1 + time.monotonic() - began)
    assert uplinks.received("router") - router < MANY * 6 + own
    assert uplinks.counted(service, "pass_foreign_tunnel") == 0


def test_the_route_selects_the_uplink(uplinks: Uplinks) -> None:
    """The control: with routes to the other nodes by eth1, nothing leaves by eth2; and back again."""

    def route_by(net: int) -> None:
        for node in NODES:
            number = node[1]
            uplinks.run(node, "ip", "route", "replace", "10.0.0.0/21", "via", f"10.{net}.{number}.1")
            uplinks.run(node, "ip", "route", "replace", "fd00::/48", "via", f"fd0{net}:0:0:{number}::1")

    def share_of_back() -> float:
        sent, back = uplinks.counted("six-gue", "forward_first"), uplinks.received("back")
        for _ in range(20):
            with uplinks.connect("six-gue") as one:
                server_of(one)
        return (uplinks.received("back") - back) / (uplinks.counted("six-gue", "forward_first") - sent)

    try:
        route_by(0)
        wait_for(lambda: share_of_back() < 0.2, "the tunnels to leave by eth1")
    finally:
        route_by(2)
    wait_for(lambda: share_of_back() >= 1, "the tunnels to leave by eth2")


@pytest.mark.parametrize("service", VIPS)
def test_a_megabyte_flows_both_ways_with_the_clamped_mss(uplinks: Uplinks, service: str) -> None:
    reply_too_big = uplinks.counted(service, "reply_too_big")
    tunnel = OUTER_HEADER[uplinks.outer] + (0 if service == "six-ipip" else UDP_HEADER)
    expected = 1500 - tunnel - OUTER_HEADER["ipv6" if ":" in VIPS[service] else "ipv4"] - TCP_HEADER
    with BulkServers(uplinks.cluster.lab.nodes[node].pid for node in NODES) as port:
        for transfer in (upload, download) * 6:
            with uplinks.connect(service, port) as one:
                assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + TIME_STAMPS == expected
                assert transfer(one, SIZE) < STALL_S
    assert uplinks.counted(service, "reply_too_big") == reply_too_big


@pytest.mark.parametrize("service", VIPS)
def test_a_client_without_the_clamp_gets_icmp(uplinks: Uplinks, service: str) -> None:
    before = uplinks.counted(service, "reply_too_big")
    with BulkServers(uplinks.cluster.lab.nodes[node].pid for node in NODES) as port:

        def is_answered_by_icmp() -> bool:  # not if the owner got it directly, or the agent was quick to put it back
            uplinks.forget_path_mtu()
            for node, interface in itertools.product(NODES, ("eth1", "eth2")):
                uplinks.run(node, "tc", "filter", "del", "dev", interface, "egress", check=False)
            with uplinks.connect(service, port) as one:
                assert upload(one, SIZE) < STALL_S
            return uplinks.counted(service, "reply_too_big") > before

        wait_for(is_answered_by_icmp, "a packet that is too big for its tunnel")


@pytest.mark.parametrize("service", VIPS)
def test_a_smaller_path_mtu_to_the_client_is_discovered(uplinks: Uplinks, service: str) -> None:
    """The router's ICMP error goes to the VIP: any node receives it, and forwards it to the owner."""
    before = uplinks.counted(service, "rx_icmp_error")
    clients = {"four": ("10.1.1.0/24", "10.1.0.2")}.get(service, ("fd01:0:0:1::/64", "fd01::2"))
    route = ["ip", "route", "replace", clients[0], "via", clients[1]]
    uplinks.run("router", *route, "mtu", "lock", "1400")
    try:
        with BulkServers(uplinks.cluster.lab.nodes[node].pid for node in NODES) as port:
            for _ in range(8):
                with uplinks.connect(service, port) as one:
                    assert download(one, SIZE) < STALL_S
    finally:
        uplinks.run("router", *route)
    assert uplinks.counted(service, "rx_icmp_error") - before >= 4


@pytest.fixture
def narrow(uplinks: Uplinks) -> Iterator[None]:
    """Routes to the other nodes whose tunnels carry less than 1,280 bytes."""

    def route(*mtu: str) -> None:
        for node in NODES:
            number = node[1]
            uplinks.run(node, "ip", "route", "replace", "10.0.0.0/21", "via", f"10.2.{number}.1", *mtu)
            uplinks.run(node, "ip", "route", "replace", "fd00::/48", "via", f"fd02:0:0:{number}::1", *mtu)

    def problems() -> list[bool]:
        status = [uplinks.cluster.status(node) for node in NODES]
        return [any("too small for IPv6" in line for line in one["problems"]) for one in status]

    route("mtu", "1299")
    try:
        wait_for(lambda: all(problems()), "status to name the narrow paths")
        yield
    finally:
        route()
        wait_for(lambda: not any(problems()), "the paths to be wide again")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("service", ["six-gue", "six-ipip"])
def test_a_path_too_narrow_for_ipv6_moves_no_new_flow(uplinks: Uplinks, service: str) -> None:
    """Every node keeps the connections that it gets, and a full-size packet of theirs never meets a tunnel."""
    before = {name: uplinks.counted(service, name) for name in ("deliver_narrow", "reply_too_big", "drop_too_big")}
    with BulkServers(uplinks.cluster.lab.nodes[node].pid for node in NODES) as port:
        for _ in range(20):
            uplinks.forget_path_mtu()
            with uplinks.connect(service, port) as one:
                assert upload(one, SIZE) < STALL_S
    assert uplinks.counted(service, "deliver_narrow") > before["deliver_narrow"]
    for name in ("reply_too_big", "drop_too_big"):
        assert uplinks.counted(service, name) == before[name]


def test_an_ipv6_vip_answers_echo(uplinks: Uplinks) -> None:
    with inside_net(uplinks.cluster.lab.nodes["client"].pid):
        icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with icmp:
        icmp.settimeout(60)
        for number in range(10):
            request = struct.pack("!BBHHH", 128, 0, 0, 4242, number) + b"anyone?"
            icmp.sendto(request, (VIPS["six-gue"], 0))
            while True:
                answer, source = icmp.recvfrom(1000)
                if answer[0] == 129 and answer[4:8] == request[4:8]:
                    break
            assert source[0] == VIPS["six-gue"]
            assert answer[8:] == b"anyone?"
