# SPDX-License-Identifier: Apache-2.0
"""Datagrams larger than the path: fragments/fragments.clab.yml, with real kernels, BIRD, ExaBGP, agents and XDP.

Clients fragment what does not fit: at 1,500 bytes, or at what the first "too big" has given (path MTU discovery
loses the packet that it is about). All fragments of a datagram must meet at the owner of its flow.

The negative control is the number of nodes that answer: if all fragments stayed where the router sent them, they would
meet as well, but not at their flows' owners.
"""

import itertools
import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.cluster_lab import ClusterLab, cluster_lab
from support.datagrams import DatagramServers, answer_to
from support.waiting import wait_for

from topology.errors import LabError

pytestmark = pytest.mark.lab
FILE = Path(__file__).parent / "fragments/fragments.clab.yml"
NODES = ("b1", "b2", "b3")
VIPS = {
    "l2-4": "10.99.0.1", "gue-4": "10.99.0.2", "ipip-4": "10.99.0.3",
    "l2-6": "fd99::1", "gue-6": "fd99::2", "ipip-6": "fd99::3",
}  # fmt: skip
MTU = {"l2": 1500, "gue": 1472, "ipip": 1480}
SENT = 10
ONE_PACKET = 1472
"""Bytes of a datagram that is one full packet over IPv4."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("fragments-test", FILE) as made:
        wait_for(lambda: all(is_ready(made, node) for node in NODES), "the VIPs to be on lo")
        pids = {node: made.lab.nodes[node].pid for node in NODES}
        with DatagramServers(pids, VIPS.values()):  # without a socket a service is not healthy
            wait_for(lambda: tables_agree(made), "the nodes to have equal tables with all three")
            yield made


def is_ready(cluster: ClusterLab, node: str) -> bool:
    try:
        return bool(cluster.status(node)["ready"])
    except LabError:
        return False


def tables_agree(cluster: ClusterLab) -> bool:
    """Return whether all nodes hold equal rows of each service, in which all three serve."""
    try:
        statuses = [cluster.status(node) for node in NODES]
    except LabError:
        return False
    serving = [
        [len(s["members"]) == len(NODES) and all(m["effective"] > 0 for m in s["members"]) for s in status["services"]]
        for status in statuses
    ]
    digests = {tuple(s["digest"] for s in status["services"]) for status in statuses}
    return serving == [[True] * len(VIPS)] * len(NODES) and len(digests) == 1


SOURCES = itertools.count(1)


def answers(cluster: ClusterLab, vip: str, size: int, count: int = SENT, timeout_s: float = 5.0) -> list[str | None]:
    """Send datagrams from addresses and ports that no other had; return the servers that answer."""
    pid, found = cluster.lab.nodes["client"].pid, []
    for number in itertools.islice(SOURCES, count):
        source = f"fd01:0:0:1::{number:x}" if ":" in vip else f"10.1.1.{number % 250 + 1}"
        found.append(answer_to(pid, source, vip, size, timeout_s))
    return found


def learn_path_mtu(cluster: ClusterLab, service: str) -> None:
    """Send full packets until the client's kernel knows the path MTU: some go to their owner without a tunnel."""
    vip, mtu = VIPS[service], MTU[service.split("-")[0]]

    def known() -> bool:
        answers(cluster, vip, ONE_PACKET, count=1, timeout_s=0.1)
        routes: Any = json.loads(cluster.lab.exec("client", ["ip", "-j", "route", "get", vip]).stdout)
        return any(metrics.get("mtu") == mtu for route in routes for metrics in route.get("metrics", []))

    if mtu < 1500:
        wait_for(known, f"the path MTU of {service}")


@pytest.mark.parametrize("service", VIPS)
def test_datagrams_of_any_size_arrive_at_their_owners(cluster: ClusterLab, service: str) -> None:
    vip = VIPS[service]
    learn_path_mtu(cluster, service)
    before = delivered(cluster, service)
    for size in (ONE_PACKET, 3000, 8000):
        found = answers(cluster, vip, size)
        assert found == [name for name in found if name], f"{size} bytes: {found}"
        assert len(found) == SENT
        assert len(set(found)) > 1, "these flows have several owners"
    fragmented = 2 if ip_address(vip).version == 4 and MTU[service.split("-")[0]] == 1500 else 3
    assert delivered(cluster, service) - before >= fragmented * SENT * 2


def delivered(cluster: ClusterLab, service: str) -> int:
    return sum(counters["deliver_fragment"] for counters in cluster.service_counters(service, NODES).values())


@pytest.mark.parametrize("service", ["gue-4", "ipip-6"])
def test_the_owner_of_a_flow_gets_its_small_and_its_large_datagrams(cluster: ClusterLab, service: str) -> None:
    vip, pid = VIPS[service], cluster.lab.nodes["client"].pid
    learn_path_mtu(cluster, service)
    for number in range(12):
        source = f"fd01:0:0:1::{number + 1:x}" if ":" in vip else f"10.1.1.{number + 1}"
        small, large = (answer_to(pid, source, vip, size, 5.0, port=30_000 + number) for size in (100, 4000))
        assert small
        assert small == large
