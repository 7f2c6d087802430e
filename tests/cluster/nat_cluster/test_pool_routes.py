# SPDX-License-Identifier: Apache-2.0
"""The pool of NAT at a real router (nat.clab.yml): which nodes it is routed to, whatever is healthy."""

import contextlib
import signal
from typing import Any

import pytest
from support.cluster_lab import FOUR
from support.nat_lab import BACKENDS, POOL, POOL6, NatLab
from support.waiting import wait_for

pytestmark = pytest.mark.lab
POOLS = (POOL, POOL6)
REST = {"b2", "b3", "b4"}


def wait_for_hops(lab: NatLab, nodes: set[str], what: str) -> None:
    wait_for(lambda: all(lab.hops(pool) == nodes for pool in POOLS), what)


def test_pool_is_routed_to_the_nodes_that_forward(lab: NatLab) -> None:
    wait_for_hops(lab, set(FOUR), "the pool at all nodes")
    lab.lbctl("b1", "drain", "--force")
    wait_for_hops(lab, REST, "b1 drained")
    reasons = {one["pool"]: one["why"] for one in lab.status("b1")["pools"]}
    assert reasons == dict.fromkeys(POOLS, "the node is draining")
    lab.lbctl("b1", "undrain")
    wait_for_hops(lab, set(FOUR), "b1 back")
    lab.stop_agent("b1")
    wait_for_hops(lab, REST, "b1's agent stopped")
    lab.start_agent("b1")
    wait_for_hops(lab, set(FOUR), "b1's agent back")


def backends(lab: NatLab, node: str, service: str = "echo") -> dict[str, dict[str, Any]]:
    """Return what a node shows of the backends of a service, by address."""
    services = {one["name"]: one for one in lab.status(node)["services"]}
    return {one["address"]: one for one in services[service]["backends"]}


def test_drain_of_a_backend_holds_on_all_nodes_and_outlives_agents(lab: NatLab) -> None:
    s1 = "10.9.0.11:7000"
    wait_for(lambda: all(backends(lab, node)[s1]["healthy"] for node in FOUR), "s1 is up")
    lab.lbctl("b1", "backend", "drain", "echo", s1)
    wait_for(lambda: all(backends(lab, node)[s1]["drained"] for node in FOUR), "drained on all nodes")
    for node in ("b1", "b2"):
        lab.stop_agent(node, signal.SIGKILL)
    for node in ("b1", "b2"):
        lab.start_agent(node)
        assert backends(lab, node)[s1]["drained"]
    lab.lbctl("b3", "backend", "undrain", "echo", s1)
    wait_for(lambda: not any(backends(lab, node)[s1]["drained"] for node in FOUR), "undrained on all nodes")
    assert not backends(lab, "b1", "web")["10.9.0.11:8080"]["drained"], "another service"


def test_agent_that_follows_finds_backends_healthy_before_it_has_asked_them(lab: NatLab) -> None:
    before: dict[str, Any] = {}

    def replace() -> None:
        wait_for(lambda: all(one["healthy"] for one in backends(lab, "b4").values()), "all are up")
        before.update(since(lab))
        lab.stop_agent("b4", signal.SIGKILL)
        lab.start_agent("b4")
        found = backends(lab, "b4").values()
        assert "not checked yet" not in {one["why"] for one in found}
        assert all(one["healthy"] for one in found)

    lab.replace_agent(replace, lambda: all(lab.hops(pool) == set(FOUR) for pool in POOLS))
    assert since(lab) == before, "no route changed"


def since(lab: NatLab) -> dict[str, Any]:
    """Return since when each VIP and pool is as it is, by b4's status of its routes."""
    return {row["vip"]: row["since"] for row in lab.lbctl("b4", "announce", "status", "-o", "json")["peers"]}


def test_vip_of_a_nat_service_is_not_on_lo_and_the_kernel_drops_what_it_gets(lab: NatLab) -> None:
    addresses = lab.lab.exec("b1", ["ip", "address", "show", "lo"]).stdout
    assert "10.99.0.1" not in addresses
    rules = lab.lab.exec("b1", ["ip", "rule"]).stdout
    for prefix in ("10.99.0.1", POOLS[0]):
        assert f"to {prefix} iif eth1 blackhole" in rules


def test_pool_stays_when_no_backend_is_healthy(lab: NatLab) -> None:
    wait_for_hops(lab, set(FOUR), "the pool at all nodes")
    with contextlib.ExitStack() as stack:
        for backend in BACKENDS:
            stack.enter_context(lab.backend_cut_off(backend))
        wait_for(
            lambda: all(not one["healthy"] for node in FOUR for one in lab.status(node)["services"]),
            "all backends are down",
        )
        assert all(lab.hops(pool) == set(FOUR) for pool in POOLS)
        rows = [row for row in lab.lbctl("b1", "announce", "status", "-o", "json")["peers"] if row["vip"] in POOLS]
        assert [(row["vip"], row["desired"], row["out"]) for row in rows] == [
            (pool, "announced", "yes") for pool in POOLS
        ]
    wait_for(lambda: lab.serves(FOUR), "all backends to be up")
