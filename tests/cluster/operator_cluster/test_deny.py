# SPDX-License-Identifier: Apache-2.0
"""The deny list of a running cluster: it applies at once, and outlives the agent. Clients are 10.1.1.0/24."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterable

import pytest
from support.cluster_lab import FOUR, PORT, ClusterLab
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab

DENIED, OTHER = "10.1.1.1", "10.1.1.2"
ATTEMPTS = 64
"""A quarter of them enter by each node: 1 in 10^8 times none enters by one."""
SILENCE_S = 1.5
TCP_ESTABLISHED = 1


def serves(cluster: ClusterLab) -> bool:
    """Whether the router sends to all four, and they have the same table and reach each other."""
    return (
        cluster.next_hops() == set(FOUR)
        and cluster.tables_agree()
        and all(member["reachable"] for node in FOUR for member in cluster.status(node)["members"])
    )


def connects(cluster: ClusterLab, source: str) -> bool:
    """Whether a server answers a new connection from an address; OSError if none is established."""
    return cluster.server_at((source, 0)) in FOUR


def established(cluster: ClusterLab, source: str) -> int:
    """Return how many of so many new connections from an address are established soon."""
    with contextlib.ExitStack() as stack, inside_net(cluster.lab.nodes["client"].pid):
        made = [stack.enter_context(socket.socket()) for _ in range(ATTEMPTS)]
        for one in made:
            one.setblocking(False)
            one.bind((source, 0))
            one.connect_ex((VIP, PORT))
        time.sleep(SILENCE_S)
        states = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for one in made]
    return states.count(TCP_ESTABLISHED)


def drops(cluster: ClusterLab, nodes: Iterable[str] = FOUR) -> int:
    """Return how many packets these nodes have dropped because their source is denied."""
    return sum(int(cluster.status(node)["xdp"]["counters"]["drop_denied"]) for node in nodes)


def drops_without_agent(cluster: ClusterLab, node: str) -> bool:
    """Whether a node drops new connections of the denied address while its agent is gone. None of them may enter by it
    where the relay's 10 s were over before: then its routes were withdrawn."""
    before = drops(cluster, [node])
    cluster.stop_agent(node, signal.SIGKILL)
    assert established(cluster, DENIED) == 0
    assert "no agent answers" in cluster.lbctl(node, "status", code=3)
    cluster.start_agent(node)
    wait_for(lambda: serves(cluster), "all four to serve")
    return drops(cluster, [node]) > before


def deny(cluster: ClusterLab, node: str, *arguments: str) -> list[dict[str, object]]:
    """Run lbctl deny; return the list after it."""
    return list(cluster.lbctl(node, "deny", *arguments, "-o", "json")["denied"])


def test_a_denied_client_stays_out_until_it_is_deleted(cluster: ClusterLab) -> None:
    wait_for(lambda: serves(cluster), "all four to serve")
    assert connects(cluster, DENIED)
    wait_for(lambda: established(cluster, OTHER) > 0, "the control: some within so short a time")
    assert drops(cluster) == 0
    for node in FOUR:
        assert deny(cluster, node, "add", f"{DENIED}/32") == [{"prefix": f"{DENIED}/32", "configured": False}]
    assert established(cluster, DENIED) == 0
    wait_for(lambda: drops(cluster) >= ATTEMPTS, "all attempts to be dropped")
    assert connects(cluster, OTHER), "other clients connect"
    explained = cluster.lbctl("b1", "explain", f"tcp,{DENIED}:4000,{VIP}:{PORT}", "-o", "json")
    assert explained["denied"] == f"{DENIED}/32"

    wait_for(lambda: drops_without_agent(cluster, "b1"), "attempts that enter by b1 while it has no agent")
    assert [entry["prefix"] for entry in deny(cluster, "b1", "list")] == [f"{DENIED}/32"]
    assert established(cluster, DENIED) == 0

    for node in FOUR:
        assert deny(cluster, node, "del", f"{DENIED}/32") == []
    assert connects(cluster, DENIED)
    again = cluster.lbctl("b1", "deny", "del", f"{DENIED}/32", code=1)
    assert again == f"lbctl: {DENIED}/32 is not denied; see `lbctl deny list`\n"


def test_all_clients_are_denied_only_by_force(cluster: ClusterLab) -> None:
    refused = cluster.lbctl("b1", "deny", "add", "::/0", code=1)
    assert refused.startswith("lbctl: ::/0 has all IPv6 addresses")
    assert refused.endswith("use --force\n")
    assert deny(cluster, "b1", "list") == []
    assert deny(cluster, "b1", "add", "::/0", "--force") == [{"prefix": "::/0", "configured": False}]
    assert deny(cluster, "b1", "del", "::/0") == []


def test_all_nodes_explain_a_flow_alike(cluster: ClusterLab) -> None:
    owners = set()
    for flow in [f"tcp,10.1.1.{i}:4000,{VIP}:{PORT}" for i in range(4)]:
        answers = [cluster.explain(node, flow) for node in FOUR]
        assert len({(answer["row"], tuple(answer["chain"])) for answer in answers}) == 1
        assert len(answers[0]["chain"]) == 4
        assert answers[0]["affinity"] == "5-tuple"
        owners.add(answers[0]["chain"][0])
    assert len(owners) > 1
