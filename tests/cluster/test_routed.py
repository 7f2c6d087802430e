# SPDX-License-Identifier: Apache-2.0
"""Servers behind a router hop: routed.clab.yml with real BIRD, ExaBGP, agents and XDP, by both kinds of tunnel.

    client ── router (BIRD) ──┬── b1 10.0.1.11/24        10.99.0.1: forward gue
       1500   each link 1500  ├── b2 10.0.2.12/24        10.99.0.2: forward ipip
                              ├── b3 10.0.3.13/24
                              └── b4 10.0.4.14/24

The negative control is the same lab as plain ECMP anycast (`XDP=off`): a drain breaks connections there alone.
"""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.bulk_transfer import SIZE, STALL_S, BulkServers, download, upload
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab, server_or_none
from support.waiting import wait_for

pytestmark = pytest.mark.lab
FILE = TOPOLOGY / "routed.clab.yml"
VIPS = {"echo": "10.99.0.1", "echo-ipip": "10.99.0.2"}
HELD = 80  # connections a service: some 20 at each server
MANY = 120  # so many that it is never by chance that a node has none
HANG_S = 4.0
FULL_MSS = 1500 - 40
CLAMPED_MSS = {"echo": FULL_MSS - 28, "echo-ipip": FULL_MSS - 20}
TIME_STAMPS = 12  # bytes in each segment


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("routed-test", FILE) as made:
        wait_for(lambda: all(made.next_hops(vip) == set(FOUR) for vip in VIPS.values()), "all next hops")
        wait_for(made.tables_agree, "equal tables")
        yield made


@pytest.fixture(scope="module")
def control() -> Iterator[ClusterLab]:
    with cluster_lab("routed-control", FILE, {"XDP": "off"}) as made:
        wait_for(lambda: all(made.next_hops(vip) == set(FOUR) for vip in VIPS.values()), "all next hops")
        yield made


def grown(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], counter: str) -> dict[str, int]:
    return {node: after[node].get(counter, 0) - before[node].get(counter, 0) for node in FOUR}


def mss(connection: socket.socket) -> int:
    """Return the client's send MSS, its time stamps included."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + TIME_STAMPS


def connect_unclamped(cluster: ClusterLab, vip: str, port: int = 7000, full: int = FULL_MSS) -> socket.socket:
    """Connect with an unclamped SYN-ACK: the agents restore their filters within seconds of the removal."""
    deadline = time.monotonic() + 120
    while True:
        one = cluster.connect(vip, port)
        found = mss(one)
        if found == full:
            return one
        one.close()
        assert time.monotonic() < deadline, f"the MSS is {found}, not {full}"
        forget_path_mtu(cluster)
        for node in FOUR:
            cluster.lab.exec(node, ["tc", "filter", "del", "dev", "eth1", "egress"], check=False)


def drain_breaks(cluster: ClusterLab) -> dict[str, tuple[int, int]]:
    """Drain b2 under open connections; return by service how many broke or moved, and how many b2 held."""
    with contextlib.ExitStack() as stack:
        held = {
            service: [stack.enter_context(cluster.connect(vip)) for _ in range(HELD)] for service, vip in VIPS.items()
        }
        owners = {service: [server_or_none(one) for one in connections] for service, connections in held.items()}
        assert all(all(names) for names in owners.values())
        cluster.request("b2", "POST", "/drain")
        wait_for(lambda: not any("b2" in cluster.next_hops(v) for v in VIPS.values()), "b2 to leave the next hops")
        try:
            return {
                service: (
                    sum(server_or_none(one) != owner for one, owner in zip(held[service], names, strict=True)),
                    names.count("b2"),
                )
                for service, names in owners.items()
            }
        finally:
            cluster.request("b2", "POST", "/undrain")
            wait_for(lambda: all("b2" in cluster.next_hops(vip) for vip in VIPS.values()), "b2 to be back")
            wait_for(cluster.tables_agree, "equal tables")


@pytest.mark.parametrize("service", VIPS)
def test_connections_reach_every_owner_through_tunnels(cluster: ClusterLab, service: str) -> None:
    before = cluster.service_counters(service)
    found = set()
    for _ in range(MANY):
        with cluster.connect(VIPS[service]) as one:
            found.add(server_or_none(one))
    assert found == set(FOUR)

    def all_decapsulated() -> bool:  # the last packets may still be in flight
        now = cluster.service_counters(service)
        sent, received = grown(before, now, "forward_first"), grown(before, now, "rx_tunnel")
        return sum(received.values()) == sum(sent.values())

    wait_for(all_decapsulated, "all tunneled packets to be decapsulated")
    after = cluster.service_counters(service)
    for counter in ("forward_first", "rx_tunnel"):
        assert all(grown(before, after, counter).values()), counter
    # Nothing is forwarded twice while all agree.
    assert not any(grown(before, after, "forward_again").values())
    assert not any(grown(before, after, "pass_foreign_tunnel").values())


@pytest.mark.parametrize("service", VIPS)
def test_explain_names_the_server_that_answers(cluster: ClusterLab, service: str) -> None:
    for _ in range(3):
        with cluster.connect(VIPS[service]) as one:
            (client, port), (vip, vip_port) = one.getsockname(), one.getpeername()
            flow = f"tcp,{client}:{port},{vip}:{vip_port}"
            answer = cluster.explain("b3", flow)
            assert answer["forward"] == {"echo": "gue", "echo-ipip": "ipip"}[service]
            assert server_or_none(one) == cluster.names[answer["chain"][0]]
            last = cluster.walks("b3", flow)[0]["steps"][-1]
            assert (last["node"], last["event"]) == (answer["chain"][0], "deliver_socket")


def test_a_drain_breaks_no_connection(cluster: ClusterLab) -> None:
    for service, (broken, at_b2) in drain_breaks(cluster).items():
        assert at_b2 > 0, "the drained server held no connection: proves nothing"
        assert broken == 0, service


def test_a_drain_breaks_connections_without_the_data_path(control: ClusterLab) -> None:
    broken = sum(broken for broken, _ in drain_breaks(control).values())
    assert broken >= HELD // 5


def test_a_changed_mac_of_the_router_is_followed(cluster: ClusterLab) -> None:
    """b2 forwards to the router's MAC; when it changes and b2's kernel learns it, the data path follows."""
    cluster.lab.exec("router", ["ip", "link", "set", "eth2", "address", "02:00:00:00:bb:02"])
    cluster.lab.exec("router", ["ip", "neigh", "flush", "dev", "eth2"])  # its ARP request for b2 has its new MAC
    for service in VIPS:
        wait_for(lambda service=service: b2_forwards(cluster, service), f"b2 to forward {service} again")


def b2_forwards(cluster: ClusterLab, service: str) -> bool:
    """Return whether 30 new connections all succeed, and some of them through b2."""
    before = cluster.service_counters(service)
    for _ in range(30):
        try:
            with cluster.connect(VIPS[service], timeout_s=5) as one:
                if server_or_none(one) is None:
                    return False
        except OSError:
            return False
    return grown(before, cluster.service_counters(service), "forward_first")["b2"] > 0


@pytest.fixture
def no_icmp(cluster: ClusterLab) -> Iterator[None]:
    """Drop ICMP to clients at the router, as many firewalls do."""
    rule = ["ipproto", "icmp", "to", "10.1.0.0/16", "blackhole"]
    cluster.lab.exec("router", ["ip", "rule", "add", *rule])
    yield
    cluster.lab.exec("router", ["ip", "rule", "del", *rule])


@pytest.mark.parametrize("service", VIPS)
@pytest.mark.usefixtures("no_icmp")
def test_a_client_without_icmp_uploads(cluster: ClusterLab, service: str) -> None:
    """The owner's SYN-ACK has the MSS that fits into the tunnel. Some uploads go directly to the owner: so twenty."""
    status = cluster.request("b1", "GET", "/status")
    assert status["egress"] == {"interfaces": ["eth1"], "errors": []}
    assert {s["name"]: s["mss"] for s in status["services"]} == CLAMPED_MSS
    before = cluster.service_counters(service)
    with BulkServers(cluster.lab.nodes[node].pid for node in FOUR) as port:
        for _ in range(20):
            with clamped(cluster, service, port) as one:
                assert upload(one, SIZE) < STALL_S
    after = cluster.service_counters(service)
    assert sum(grown(before, after, "rx_tunnel").values()) > 1000
    assert not any(grown(before, after, "reply_too_big").values())


@pytest.mark.usefixtures("no_icmp")
def test_a_client_without_icmp_hangs_without_the_clamp(cluster: ClusterLab) -> None:
    before = cluster.service_counters("echo")
    with (
        BulkServers(cluster.lab.nodes[node].pid for node in FOUR) as port,
        contextlib.ExitStack() as stack,
        ThreadPoolExecutor(24) as pool,
    ):
        uploads = [stack.enter_context(connect_unclamped(cluster, VIPS["echo"], port)) for _ in range(24)]
        hung = sum(pool.map(hangs, uploads))
    assert hung >= 6, "18 of 24 go through a tunnel, on average"
    assert any(grown(before, cluster.service_counters("echo"), "reply_too_big").values())


def hangs(connection: socket.socket) -> bool:
    """Return whether the server does not get all data."""
    try:
        upload(connection, SIZE, HANG_S)
    except TimeoutError:
        # Closing resets it: its kernel would go on sending, receive ICMP again, and disturb later tests.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return True
    return False


def clamped(cluster: ClusterLab, service: str, port: int = 7000, expected: int = 0) -> socket.socket:
    """Connect with a clamped SYN-ACK; another test may have removed the filters just before."""
    found: list[socket.socket] = []

    def clamped_now() -> bool:
        forget_path_mtu(cluster)
        one = cluster.connect(VIPS[service], port)
        if mss(one) == (expected or CLAMPED_MSS[service]):
            found.append(one)
        else:
            one.close()
        return bool(found)

    wait_for(clamped_now, f"{service}'s MSS to be clamped")
    return found[0]


@pytest.mark.parametrize("service", VIPS)
def test_a_megabyte_flows_both_ways_without_a_stall(cluster: ClusterLab, service: str) -> None:
    """Full-size packets do not fit into the tunnel: the ingress replies by ICMP, and the client sends smaller ones."""
    before = cluster.service_counters(service)
    with BulkServers(cluster.lab.nodes[node].pid for node in FOUR) as port:
        for transfer in (upload, download) * 12:
            forget_path_mtu(cluster)
            with connect_unclamped(cluster, VIPS[service], port) as one:
                stall_s = transfer(one, SIZE)
            assert stall_s < STALL_S
    after = cluster.service_counters(service)
    assert sum(grown(before, after, "rx_tunnel").values()) > 1000
    assert any(grown(before, after, "reply_too_big").values())
    assert not any(grown(before, after, "drop_too_big").values())


@pytest.mark.parametrize("service", VIPS)
def test_a_smaller_path_mtu_to_the_client_is_discovered(cluster: ClusterLab, service: str) -> None:
    """The router's ICMP error to the VIP has an MTU of 1,400: any server receives it, and forwards it to the owner."""
    before = cluster.service_counters(service)
    route_back = ["ip", "route", "replace", "10.1.1.0/24", "via", "10.1.0.2"]
    cluster.lab.exec("router", [*route_back, "mtu", "lock", "1400"])
    try:
        with BulkServers(cluster.lab.nodes[node].pid for node in FOUR) as port:
            for transfer in (download, upload) * 12:
                forget_path_mtu(cluster)
                with cluster.connect(VIPS[service], port) as one:
                    assert transfer(one, SIZE) < STALL_S
    finally:
        cluster.lab.exec("router", route_back)
    errors = grown(before, cluster.service_counters(service), "rx_icmp_error")
    assert sum(errors.values()) >= 12, errors
    assert sum(map(bool, errors.values())) > 1, errors


@pytest.mark.parametrize(("service", "fits"), [("echo", 1300 - 28), ("echo-ipip", 1300 - 20)])
def test_a_changed_mtu_of_the_routes_is_followed(cluster: ClusterLab, service: str, fits: int) -> None:
    """SYN-ACK and ICMP have the size that fits into the tunnel on the current routes."""
    default = {
        node: ["ip", "route", "replace", "default", "via", address.rpartition(".")[0] + ".1"]
        for node, address in cluster.addresses.items()
    }

    def learned_mtu(mtu: int) -> int:
        for _ in range(8):  # some uploads reach the owner without a tunnel
            forget_path_mtu(cluster)
            with connect_unclamped(cluster, VIPS[service], port, mtu - 40) as one:
                assert upload(one, SIZE // 10) < STALL_S
            found: Any = json.loads(cluster.lab.exec("client", ["ip", "-j", "route", "get", VIPS[service]]).stdout)
            mtus = [metrics["mtu"] for route in found for metrics in route.get("metrics", [])]
            if mtus:
                return int(mtus[0])
        return 0

    with BulkServers(cluster.lab.nodes[node].pid for node in FOUR) as port:
        try:
            for node, command in default.items():
                cluster.lab.exec(node, [*command, "mtu", "1300"])
            clamped(cluster, service, expected=fits - 40).close()
            wait_for(lambda: learned_mtu(1300) == fits, "the client to learn 1300")
        finally:
            for node, command in default.items():
                cluster.lab.exec(node, command)
        clamped(cluster, service).close()
        wait_for(lambda: learned_mtu(1500) == fits + 200, "the client to learn 1500")


def forget_path_mtu(cluster: ClusterLab) -> None:
    """Drop the path MTU that the client has cached with its route."""
    cluster.lab.exec("client", ["ip", "route", "del", "default"])
    cluster.lab.exec("client", ["ip", "route", "add", "default", "via", "10.1.0.1"])
