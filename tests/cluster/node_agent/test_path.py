# SPDX-License-Identifier: Apache-2.0
"""Nodes whose path to clients is lost take no connections."""

import signal

import pytest
from support.cluster_lab import FOUR, ClusterLab
from support.waiting import wait_for

pytestmark = pytest.mark.lab
ROUTE = ["ip", "route", "replace", "default", "via", "10.0.0.1"]
LOST_PATHS = {
    "route": (["ip", "route", "del", "default"], "there is no route to clients in 0.0.0.0/0"),
    "next hop": (
        [*ROUTE[:-1], "10.0.0.99"],
        "10.0.0.99 on eth1, the next hop to clients in 0.0.0.0/0, does not answer",
    ),
    "address": (
        ["sh", "-c", "ip address del 10.0.0.13/24 dev eth1 && ip address add 10.0.0.33/24 dev eth1"],
        "this node's address 10.0.0.13 is gone (eth1 has 10.0.0.33)",
    ),
}


MEND = [
    "sh",
    "-c",
    f"ip address del 10.0.0.33/24 dev eth1; ip address replace 10.0.0.13/24 dev eth1; {' '.join(ROUTE)}",
]


def path_problem(cluster: ClusterLab, node: str) -> str:
    return "\n".join(line for line in cluster.status(node)["problems"] if "packets of 10.99.0.1 are lost" in line)


def fails(cluster: ClusterLab, timeout_s: float) -> bool:
    """Return whether a new connection fails, or takes longer."""
    try:
        cluster.connect(timeout_s=timeout_s).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("lost", LOST_PATHS)
def test_node_whose_path_to_clients_is_lost_takes_no_connections(cluster: ClusterLab, lost: str) -> None:
    command, cause = LOST_PATHS[lost]
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "b3 to be back")
    cluster.lab.exec("b3", command)
    try:
        wait_for(lambda: cause in path_problem(cluster, "b3"), "the problem")
        assert f"WARNING: {cause}" in cluster.lbctl("b3", "announce", "check", code=1)
        wait_for(lambda: "b3" not in cluster.next_hops(), "b3 to leave the next hops")
        wait_for(lambda: cluster.tables_agree(set(FOUR) - {"b3"}, set(FOUR) - {"b3"}), "b3 to take no connections")
        assert not any(fails(cluster, timeout_s=20) for _ in range(40))
    finally:
        cluster.lab.exec("b3", MEND)
    wait_for(lambda: not path_problem(cluster, "b3"), "the problem's end")
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "b3 to be back")


def test_control_a_lost_route_that_no_agent_notices_loses_connections(cluster: ClusterLab) -> None:
    cluster.kill("b3", "agent", signal.SIGSTOP)
    try:
        cluster.lab.exec("b3", LOST_PATHS["route"][0])
        assert any(fails(cluster, timeout_s=0.5) for _ in range(100)), "b3 owns a quarter of the rows"
    finally:
        cluster.lab.exec("b3", ROUTE)
        cluster.kill("b3", "agent", signal.SIGCONT)


def test_vip_stays_announced_where_all_have_lost_their_path(cluster: ClusterLab) -> None:
    for node in FOUR:
        cluster.lab.exec(node, LOST_PATHS["route"][0])
    try:
        for node in FOUR:
            wait_for(lambda node=node: path_problem(cluster, node), f"{node}'s problem")
        wait_for(lambda: all(vip["wanted"] for node in FOUR for vip in cluster.status(node)["vips"]), "all to announce")
        why = "no member is healthy: failing open"
        wait_for(lambda: cluster.status("b3")["vips"][0]["why"] == why, "b3 to know that all have lost it")
        assert all(vip["wanted"] for node in FOUR for vip in cluster.status(node)["vips"])
    finally:
        for node in FOUR:
            cluster.lab.exec(node, ROUTE)
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "all to be back")
