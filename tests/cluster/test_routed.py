# SPDX-License-Identifier: Apache-2.0
"""Servers behind a router hop: routed.clab.yml with real BIRD, ExaBGP, agents and XDP, by both kinds of tunnel.

    client ── router (BIRD) ──┬── b1 10.0.1.11/24        10.99.0.1: forward gue
       1500   each link 1500  ├── b2 10.0.2.12/24        10.99.0.2: forward ipip
                              ├── b3 10.0.3.13/24
                              └── b4 10.0.4.14/24

The negative control is the same lab as plain ECMP anycast (`XDP=off`): a drain breaks connections there, and none here.
"""

import contextlib
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.bulk_transfer import SIZE, BulkServers, download, upload
from support.waiting import wait_for

from topology.demo.cluster import Cluster
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
FILE = Path(__file__).parents[2] / "topology/routed.clab.yml"
NODES = ("b1", "b2", "b3", "b4")
VIPS = {"echo": "10.99.0.1", "echo-ipip": "10.99.0.2"}
HELD = 50  # connections a service: some 12 at each server
STALL_S = 1.0
HANG_S = 4.0
FULL_MSS = 1500 - 40
CLAMPED_MSS = {"echo": FULL_MSS - 28, "echo-ipip": FULL_MSS - 20}
TIME_STAMPS = 12  # bytes in each segment
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab.up(FILE, f"routed-test-{os.getpid()}", keep=False) as lab:
        made = Cluster(lab, "bird")
        wait_for(lambda: all(hops(made, vip) == set(made.addresses.values()) for vip in VIPS.values()), "all next hops")
        wait_for(lambda: same_tables(made), "equal tables")
        yield made


@pytest.fixture(scope="module")
def control() -> Iterator[Cluster]:
    with Lab.up(FILE, f"routed-control-{os.getpid()}", {"XDP": "off"}, keep=False) as lab:
        made = Cluster(lab, "bird")
        wait_for(lambda: all(hops(made, vip) == set(made.addresses.values()) for vip in VIPS.values()), "all next hops")
        yield made


def same_tables(cluster: Cluster) -> bool:
    views = {cluster.service_status(node) for node in NODES}
    view = views.pop()
    return view is not None and not views and view.takers == frozenset(NODES)


def hops(cluster: Cluster, vip: str) -> set[str]:
    shown = json.loads(cluster.lab.exec("router", ["ip", "-j", "route", "show", vip]).stdout or "[]")
    legs = [leg for route in shown for leg in route.get("nexthops", [route])]
    return {leg["gateway"] for leg in legs}


def counters(cluster: Cluster, service: str) -> dict[str, dict[str, int]]:
    """The counters of a service by node."""
    statuses = {node: cluster.request(node, "GET", "/status") for node in NODES}
    return {
        node: next(s["counters"] for s in status["services"] if s["name"] == service)
        for node, status in statuses.items()
    }


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], counter: str) -> dict[str, int]:
    return {node: after[node].get(counter, 0) - before[node].get(counter, 0) for node in NODES}


def connect(cluster: Cluster, vip: str, port: int = 7000, timeout_s: float = 5.0) -> socket.socket:
    """A connection from an address and port that no other had."""
    number = next(NUMBERS)
    with inside_net(cluster.lab.nodes["client"].pid):
        source = (f"10.1.1.{number % 250 + 1}", 20_000 + number)
        return socket.create_connection((vip, port), timeout_s, source_address=source)


def mss(connection: socket.socket) -> int:
    """The largest segment that the client believes it may send, its time stamps counted."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + TIME_STAMPS


def connect_unclamped(cluster: Cluster, vip: str, port: int = 7000, full: int = FULL_MSS) -> socket.socket:
    """A connection whose SYN-ACK met no clamp: the agents put their filters back within seconds of their removal."""
    deadline = time.monotonic() + 20
    while True:
        one = connect(cluster, vip, port)
        told = mss(one)
        if told == full:
            return one
        one.close()
        assert time.monotonic() < deadline, f"the MSS is {told}, not {full}"
        forget_path_mtu(cluster)
        for node in NODES:
            cluster.lab.exec(node, ["tc", "filter", "del", "dev", "eth1", "egress"], check=False)


def say(connection: socket.socket, word: str = "1") -> str | None:
    """Who answers on a connection; None if it is broken."""
    try:
        connection.sendall(f"{word}\n".encode())
        answer = connection.recv(100)
    except OSError:
        return None
    return answer.split()[0].decode() if answer else None


def drain_breaks(cluster: Cluster) -> dict[str, tuple[int, int]]:
    """Drain b2 under open connections: by service how many broke or moved, and how many b2 held."""
    with contextlib.ExitStack() as stack:
        held = {
            service: [stack.enter_context(connect(cluster, vip)) for _ in range(HELD)] for service, vip in VIPS.items()
        }
        owners = {service: [say(one) for one in connections] for service, connections in held.items()}
        assert all(all(names) for names in owners.values())
        cluster.request("b2", "POST", "/drain")
        left = cluster.addresses["b2"]
        wait_for(lambda: not any(left in hops(cluster, vip) for vip in VIPS.values()), "b2 to leave the next hops")
        try:
            return {
                service: (
                    sum(say(one, "2") != owner for one, owner in zip(held[service], names, strict=True)),
                    names.count("b2"),
                )
                for service, names in owners.items()
            }
        finally:
            cluster.request("b2", "POST", "/undrain")
            wait_for(lambda: all(left in hops(cluster, vip) for vip in VIPS.values()), "b2 to be back")


@pytest.mark.parametrize("service", VIPS)
def test_connections_reach_every_owner_through_tunnels(cluster: Cluster, service: str) -> None:
    before = counters(cluster, service)
    found = set()
    for _ in range(40):
        with connect(cluster, VIPS[service]) as one:
            found.add(say(one))
    assert found == set(NODES)

    def as_much_opened_as_sent() -> bool:  # the last packets may be on their way yet
        now = counters(cluster, service)
        sent, opened = grown(before, now, "forward_first"), grown(before, now, "rx_tunnel")
        return sum(opened.values()) == sum(sent.values())

    wait_for(as_much_opened_as_sent, "what was sent into tunnels to come out", 5.0)
    after = counters(cluster, service)
    for counter in ("forward_first", "rx_tunnel"):
        assert all(grown(before, after, counter).values()), counter
    # Nothing is forwarded twice while all agree.
    assert not any(grown(before, after, "forward_again").values())
    assert not any(grown(before, after, "pass_foreign_tunnel").values())


@pytest.mark.parametrize("service", VIPS)
def test_explain_names_the_server_that_answers(cluster: Cluster, service: str) -> None:
    for _ in range(3):
        with connect(cluster, VIPS[service]) as one:
            (client, port), (vip, vip_port) = one.getsockname(), one.getpeername()
            flow = f"tcp,{client}:{port},{vip}:{vip_port}"
            answer: Any = json.loads(cluster.lab.exec("b3", ["lbctl", "explain", flow, "-o", "json"]).stdout)
            assert answer["forward"] == {"echo": "gue", "echo-ipip": "ipip"}[service]
            assert say(one) == cluster.names[answer["chain"][0]]


def test_a_drain_breaks_no_connection(cluster: Cluster) -> None:
    for service, (broken, at_b2) in drain_breaks(cluster).items():
        assert at_b2 > 0, "the drained server held nothing: proves nothing"
        assert broken == 0, service


def test_a_drain_breaks_connections_without_the_data_path(control: Cluster) -> None:
    broken = sum(broken for broken, _ in drain_breaks(control).values())
    assert broken >= HELD // 5


def test_another_mac_of_the_router_is_followed(cluster: Cluster) -> None:
    """b2 forwards by the router's MAC; when that is another, and b2's kernel learns it, the data path does."""
    cluster.lab.exec("router", ["ip", "link", "set", "eth2", "address", "02:00:00:00:bb:02"])
    cluster.lab.exec("router", ["ip", "neigh", "flush", "dev", "eth2"])  # it asks for b2, which tells b2 of itself
    for service in VIPS:
        wait_for(lambda service=service: b2_forwards(cluster, service), f"b2 to forward {service} again", 10.0)


def b2_forwards(cluster: Cluster, service: str) -> bool:
    """Whether 30 new connections all come about, and some of them through b2."""
    before = counters(cluster, service)
    for _ in range(30):
        try:
            with connect(cluster, VIPS[service], timeout_s=0.5) as one:
                if say(one) is None:
                    return False
        except TimeoutError:
            return False
    return grown(before, counters(cluster, service), "forward_first")["b2"] > 0


@pytest.fixture
def no_icmp(cluster: Cluster) -> Iterator[None]:
    """As behind many a firewall: the router loses ICMP to clients."""
    rule = ["ipproto", "icmp", "to", "10.1.0.0/16", "blackhole"]
    cluster.lab.exec("router", ["ip", "rule", "add", *rule])
    yield
    cluster.lab.exec("router", ["ip", "rule", "del", *rule])


@pytest.mark.parametrize("service", VIPS)
@pytest.mark.usefixtures("no_icmp")
def test_a_client_that_hears_no_icmp_uploads(cluster: Cluster, service: str) -> None:
    """The owner's SYN-ACK told it what fits into the tunnel. Some uploads go straight to the owner: hence eight."""
    status = cluster.request("b1", "GET", "/status")
    assert status["clamp"] == {"interfaces": ["eth1"], "errors": []}
    assert {s["name"]: s["mss"] for s in status["services"]} == CLAMPED_MSS
    before = counters(cluster, service)
    with BulkServers(cluster.lab.nodes[node].pid for node in NODES) as port:
        for _ in range(8):
            with clamped(cluster, service, port) as one:
                assert upload(one, SIZE) < STALL_S
    after = counters(cluster, service)
    assert sum(grown(before, after, "rx_tunnel").values()) > 1000
    assert not any(grown(before, after, "reply_too_big").values())


@pytest.mark.usefixtures("no_icmp")
def test_a_client_that_hears_no_icmp_hangs_without_the_clamp(cluster: Cluster) -> None:
    before = counters(cluster, "echo")
    with (
        BulkServers(cluster.lab.nodes[node].pid for node in NODES) as port,
        contextlib.ExitStack() as stack,
        ThreadPoolExecutor(12) as pool,
    ):
        uploads = [stack.enter_context(connect_unclamped(cluster, VIPS["echo"], port)) for _ in range(12)]
        hung = sum(pool.map(hangs, uploads))
    assert hung >= 4, "nine of twelve go through a tunnel, on the average"
    assert any(grown(before, counters(cluster, "echo"), "reply_too_big").values())


def hangs(connection: socket.socket) -> bool:
    """Whether the server does not get all that is sent."""
    try:
        upload(connection, SIZE, HANG_S)
    except TimeoutError:
        # Closing resets it: its kernel would go on sending, hear ICMP again, and change what later tests measure.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True
    return False


def clamped(cluster: Cluster, service: str, port: int = 7000, expected: int = 0) -> socket.socket:
    """A connection whose SYN-ACK said what fits; another test may have removed the filters just now."""
    found: list[socket.socket] = []

    def tried() -> bool:
        forget_path_mtu(cluster)
        one = connect(cluster, VIPS[service], port)
        if mss(one) == (expected or CLAMPED_MSS[service]):
            found.append(one)
        else:
            one.close()
        return bool(found)

    wait_for(tried, f"{service}'s MSS to be right", 20.0)
    return found[0]


@pytest.mark.parametrize("service", VIPS)
def test_a_megabyte_flows_both_ways_without_a_stall(cluster: Cluster, service: str) -> None:
    """Full-size packets do not fit into the tunnel: the client hears so from the ingress, and sends smaller ones."""
    before = counters(cluster, service)
    with BulkServers(cluster.lab.nodes[node].pid for node in NODES) as port:
        for way in (upload, download) * 8:
            forget_path_mtu(cluster)
            with connect_unclamped(cluster, VIPS[service], port) as one:
                stall_s = way(one, SIZE)
            assert stall_s < STALL_S
    after = counters(cluster, service)
    assert sum(grown(before, after, "rx_tunnel").values()) > 1000
    assert any(grown(before, after, "reply_too_big").values())
    assert not any(grown(before, after, "drop_too_big").values())


@pytest.mark.parametrize("service", VIPS)
def test_a_narrow_path_to_the_client_is_found_out(cluster: Cluster, service: str) -> None:
    """The router tells the VIP that 1,400 bytes are the most: a server hears it, and sends it to the owner."""
    before = counters(cluster, service)
    way_back = ["ip", "route", "replace", "10.1.1.0/24", "via", "10.1.0.2"]
    cluster.lab.exec("router", [*way_back, "mtu", "lock", "1400"])
    try:
        with BulkServers(cluster.lab.nodes[node].pid for node in NODES) as port:
            for way in (download, upload) * 8:
                forget_path_mtu(cluster)
                with connect(cluster, VIPS[service], port) as one:
                    assert way(one, SIZE) < STALL_S
    finally:
        cluster.lab.exec("router", way_back)
    errors = grown(before, counters(cluster, service), "rx_icmp_error")
    assert sum(errors.values()) >= 8, errors
    assert sum(map(bool, errors.values())) > 1, errors


@pytest.mark.parametrize(("service", "fits"), [("echo", 1300 - 28), ("echo-ipip", 1300 - 20)])
def test_another_mtu_of_the_routes_is_followed(cluster: Cluster, service: str, fits: int) -> None:
    """Clients are told what fits into the tunnel on the routes as they are now: by the SYN-ACK, and by ICMP."""
    default = {
        node: ["ip", "route", "replace", "default", "via", address.rpartition(".")[0] + ".1"]
        for node, address in cluster.addresses.items()
    }

    def told(mtu: int) -> int:
        for _ in range(8):  # some uploads go to the owner without a tunnel
            forget_path_mtu(cluster)
            with connect_unclamped(cluster, VIPS[service], port, mtu - 40) as one:
                assert upload(one, SIZE // 10) < STALL_S
            found: Any = json.loads(cluster.lab.exec("client", ["ip", "-j", "route", "get", VIPS[service]]).stdout)
            heard = [metrics["mtu"] for route in found for metrics in route.get("metrics", [])]
            if heard:
                return int(heard[0])
        return 0

    with BulkServers(cluster.lab.nodes[node].pid for node in NODES) as port:
        try:
            for node, command in default.items():
                cluster.lab.exec(node, [*command, "mtu", "1300"])
            clamped(cluster, service, expected=fits - 40).close()
            wait_for(lambda: told(1300) == fits, "the client to hear of 1300", 10.0)
        finally:
            for node, command in default.items():
                cluster.lab.exec(node, command)
        clamped(cluster, service).close()
        wait_for(lambda: told(1500) == fits + 200, "the client to hear of 1500", 10.0)


def forget_path_mtu(cluster: Cluster) -> None:
    """What the client learned of sizes lies with its route."""
    cluster.lab.exec("client", ["ip", "route", "del", "default"])
    cluster.lab.exec("client", ["ip", "route", "add", "default", "via", "10.1.0.1"])
