# SPDX-License-Identifier: Apache-2.0
"""The pool of NAT at a real router (nat.clab.yml): which nodes it is routed to, whatever is healthy."""

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab
from support.waiting import wait_for

pytestmark = pytest.mark.lab
POOLS = ("10.255.0.0/31", "fd00:ff::/127")
REST = {"b2", "b3", "b4"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("nat-pool", TOPOLOGY / "nat.clab.yml") as made:
        yield made


def next_hops(cluster: ClusterLab, pool: str) -> set[str]:
    """Return the nodes that the router's kernel routes a pool to: a node's last byte is the same in both families."""
    shown = cluster.lab.exec("router", ["ip", "-6" if ":" in pool else "-4", "route", "show", pool]).stdout
    hosts = {re.split(r"[.:]", gateway)[-1] for gateway in re.findall(r"via (\S+)", shown)}
    return {name for name, address in cluster.addresses.items() if address.rpartition(".")[2] in hosts}


def wait_for_hops(cluster: ClusterLab, nodes: set[str], what: str) -> None:
    wait_for(lambda: all(next_hops(cluster, pool) == nodes for pool in POOLS), what)


def test_pool_is_routed_to_the_nodes_that_forward(cluster: ClusterLab) -> None:
    wait_for_hops(cluster, set(FOUR), "the pool at all nodes")
    cluster.lbctl("b1", "drain", "--force")
    wait_for_hops(cluster, REST, "b1 drained")
    reasons = {one["pool"]: one["why"] for one in cluster.status("b1")["pools"]}
    assert reasons == dict.fromkeys(POOLS, "the node is draining")
    cluster.lbctl("b1", "undrain")
    wait_for_hops(cluster, set(FOUR), "b1 back")
    cluster.stop_agent("b1")
    wait_for_hops(cluster, REST, "b1's agent stopped")
    cluster.start_agent("b1")
    wait_for_hops(cluster, set(FOUR), "b1's agent back")


def backends(cluster: ClusterLab, node: str, service: str = "echo") -> dict[str, dict[str, Any]]:
    """Return what a node shows of the backends of a service, by address."""
    services = {one["name"]: one for one in cluster.status(node)["services"]}
    return {one["address"]: one for one in services[service]["backends"]}


def test_drain_of_a_backend_holds_on_all_nodes_and_outlives_agents(cluster: ClusterLab) -> None:
    s1 = "10.9.0.11:7000"
    wait_for(lambda: all(backends(cluster, node)[s1]["healthy"] for node in FOUR), "s1 is up")
    cluster.lbctl("b1", "backend", "drain", "echo", s1)
    wait_for(lambda: all(backends(cluster, node)[s1]["drained"] for node in FOUR), "drained on all nodes")
    for node in ("b1", "b2"):
        cluster.stop_agent(node, signal.SIGKILL)
    for node in ("b1", "b2"):
        cluster.start_agent(node)
        assert backends(cluster, node)[s1]["drained"]
    cluster.lbctl("b3", "backend", "undrain", "echo", s1)
    wait_for(lambda: not any(backends(cluster, node)[s1]["drained"] for node in FOUR), "undrained on all nodes")
    assert not backends(cluster, "b1", "web")["10.9.0.11:8080"]["drained"], "another service"


def test_agent_that_follows_finds_backends_healthy_before_it_has_asked_them(cluster: ClusterLab) -> None:
    before: dict[str, Any] = {}

    def replace() -> None:
        wait_for(lambda: all(one["healthy"] for one in backends(cluster, "b4").values()), "all are up")
        before.update(since(cluster))
        cluster.stop_agent("b4", signal.SIGKILL)
        cluster.start_agent("b4")
        found = backends(cluster, "b4").values()
        assert "not checked yet" not in {one["why"] for one in found}
        assert all(one["healthy"] for one in found)

    cluster.replace_agent(replace, lambda: all(next_hops(cluster, pool) == set(FOUR) for pool in POOLS))
    assert since(cluster) == before, "no route changed"


def since(cluster: ClusterLab) -> dict[str, Any]:
    """Return since when each VIP and pool is as it is, by b4's status of its routes."""
    return {row["vip"]: row["since"] for row in cluster.lbctl("b4", "announce", "status", "-o", "json")["peers"]}


def test_vip_of_a_nat_service_is_not_on_lo_and_the_kernel_drops_what_it_gets(cluster: ClusterLab) -> None:
    addresses = cluster.lab.exec("b1", ["ip", "address", "show", "lo"]).stdout
    assert "10.99.0.1" not in addresses
    rules = cluster.lab.exec("b1", ["ip", "rule"]).stdout
    for prefix in ("10.99.0.1", POOLS[0]):
        assert f"to {prefix} iif eth1 blackhole" in rules


def test_pool_stays_when_no_backend_is_healthy(cluster: ClusterLab) -> None:
    wait_for_hops(cluster, set(FOUR), "the pool at all nodes")
    for backend in ("s1", "s2", "s3"):
        cluster.lab.exec(backend, ["ip", "link", "set", "eth1", "down"])
    wait_for(
        lambda: all(not one["healthy"] for node in FOUR for one in cluster.status(node)["services"]),
        "all backends are down",
    )
    assert all(next_hops(cluster, pool) == set(FOUR) for pool in POOLS)
    rows = [row for row in cluster.lbctl("b1", "announce", "status", "-o", "json")["peers"] if row["vip"] in POOLS]
    assert [(row["vip"], row["desired"], row["out"]) for row in rows] == [(pool, "announced", "yes") for pool in POOLS]
