# SPDX-License-Identifier: Apache-2.0
"""The pool of NAT at a real router (nat.clab.yml): which nodes it is routed to, whatever is healthy."""

import re
from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR, TOPOLOGY, ClusterLab, cluster_lab
from support.waiting import wait_for

from agent.config import nat

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not nat.NAT_READY, reason="the agents refuse nat: until this release does NAT"),
]
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
