# SPDX-License-Identifier: Apache-2.0
"""Membership when the router is at fault: segment.clab.yml, four nodes, ExaBGP, BIRD, direct probes.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay and agent
                │                    └── b5
                └ closes the sessions of b2, b3 and b4 at once; the nodes themselves live
"""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest
from support.cluster_lab import FOUR, VIP, ClusterLab, cluster_lab, copy_topology, edit, server_of
from support.waiting import wait_for

from bgp.community import Identity, ServiceState, encode
from topology.demo.router_watch import RouterWatch

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterLab]:
    folder = copy_topology(tmp_path_factory.mktemp("members"))
    # The printed filter would refuse what b5 announces below.
    edit(folder / "routers/bird.conf", ("import where net = 10.254.0.10/32 ||", "import where net ~ identities ||"))
    with cluster_lab("members-test", folder / "segment.clab.yml") as made:
        wait_for(lambda: settled(made), "equal tables")
        yield made


def settled(cluster: ClusterLab) -> bool:
    """Whether all tables agree, and every node has the current identity of every other."""
    statuses = {cluster.addresses[node]: cluster.status(node) for node in FOUR if cluster.agent_answers(node)}
    versions = {address: status["node"]["version"] for address, status in statuses.items()}
    return cluster.tables_agree() and all(
        member["version"] == versions[member["address"]]
        for own, status in statuses.items()
        for member in status["members"]
        if member["address"] != own
    )


def members(cluster: ClusterLab) -> dict[str, tuple[str, str]]:
    """(state, why) of the other members by name, in b1's status."""
    others = [m for m in cluster.status("b1")["members"] if m["why"] != "this node"]
    return {cluster.names[m["address"]]: (m["state"], m["why"]) for m in others}


def keeps_table(cluster: ClusterLab, digest: str) -> bool:
    """Whether b1 has this table for a second."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        if cluster.status("b1")["services"][0]["digest"] != digest:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def sessions_closed(cluster: ClusterLab) -> Iterator[None]:
    """Close the sessions of all but b1 at the router, as a wrong limit or filter or a lack of memory does."""
    cluster.lab.exec("router", ["sh", "-c", "for n in b2 b3 b4; do birdc disable $n; done"])
    try:
        yield
    finally:
        cluster.lab.exec("router", ["sh", "-c", "for n in b2 b3 b4; do birdc enable $n; done"])
        wait_for(cluster.tables_agree, "all to be back")


def test_members_that_answer_keep_their_place_when_a_router_loses_most_of_them(cluster: ClusterLab) -> None:
    cluster.lab.exec("b3", ["lbctl", "agent", "reload"])  # its next agent takes over the port
    wait_for(lambda: settled(cluster), "b3 to be back")
    before = cluster.status("b1")["services"][0]["digest"]
    with sessions_closed(cluster):
        wait_for(lambda: {why for _, why in members(cluster).values()} == {ANSWERS}, "probes to be answered")
        # The first of the sessions may have been lost alone, for a moment; tables follow the view a little later.
        wait_for(lambda: keeps_table(cluster, before), "the same table, for a second")
        deadline = time.monotonic() + 4.0  # longer than the timeout of unanswered probes
        while time.monotonic() < deadline:
            assert {state for state, _ in members(cluster).values()} == {"up"}
            assert cluster.status("b1")["services"][0]["digest"] == before
            time.sleep(0.2)
        # One of them that dies now is detected, though no router withdraws it.
        cluster.kill("b4", "agent")
        wait_for(lambda: members(cluster)["b4"] == ("lost", SILENT), "b4 to be lost")
        assert members(cluster)["b2"] == members(cluster)["b3"] == ("up", ANSWERS)
        cluster.start("b4", "agent")
        wait_for(lambda: members(cluster)["b4"] == ("up", ANSWERS), "b4 to be probed again")


ANSWERS = "no router advertises it, but it replies to probes"
SILENT = "no router advertises it, and it does not reply to probes"
RULE = ["ipproto", "udp", "dport", "4742", "blackhole"]


def test_without_probes_the_same_members_are_lost(cluster: ClusterLab) -> None:
    """The control: the same fault, with b1's probes dropped."""
    before = cluster.status("b1")["services"][0]["digest"]
    cluster.lab.exec("b1", ["ip", "rule", "add", *RULE])
    try:
        with sessions_closed(cluster):
            # The first of the sessions may be lost alone, before the others make it a mass loss.
            wait_for(lambda: {state for state, _ in members(cluster).values()} == {"lost"}, "all to be lost")
            assert ("lost", SILENT) in members(cluster).values()
            wait_for(lambda: cluster.status("b1")["services"][0]["digest"] != before, "another table")
    finally:
        cluster.lab.exec("b1", ["ip", "rule", "del", *RULE])


def test_a_single_withdrawn_member_is_lost_at_once_and_not_probed(cluster: ClusterLab) -> None:
    cluster.lab.exec("router", ["birdc", "disable", "b2"])
    try:
        wait_for(lambda: members(cluster)["b2"] == ("lost", "identity withdrawn"), "b2 to be lost")
        assert members(cluster)["b3"][0] == members(cluster)["b4"][0] == "up"
    finally:
        cluster.lab.exec("router", ["birdc", "enable", "b2"])
        wait_for(cluster.tables_agree, "b2 to be back")


# The dead-man's quorum


def relays_that_logged(cluster: ClusterLab, message: str) -> list[str]:
    return [n for n in FOUR if message in (cluster.lab.root(n) / "var/log/anylb/bgp.log").read_text()]


def test_the_dead_man_withdraws_one_silent_node_but_not_a_cluster_of_them(cluster: ClusterLab) -> None:
    held = "and its VIPs: fewer than half of the announcers remain"
    try:
        cluster.kill("b3", "agent")
        wait_for(lambda: cluster.next_hops() == {"b1", "b2", "b4"}, "b3's VIP to be withdrawn")
        cluster.start("b3", "agent")
        wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "b3 to be back")
        assert relays_that_logged(cluster, held) == []
        for node in FOUR:
            cluster.kill(node, "agent")
        wait_for(lambda: relays_that_logged(cluster, held) == list(FOUR), "all relays to hold")
        wait_for(lambda: cluster.next_hops() == set(FOUR), "all to be announced")
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            assert cluster.next_hops() == set(FOUR), "no relay withdraws and announces in turn"
            time.sleep(0.2)
        assert {cluster.server_at(("10.1.1.1", 40_000 + number)) for number in range(60)} == set(FOUR)
    finally:
        for node in FOUR:
            if not cluster.pids(node, "agent"):
                cluster.start(node, "agent")
        wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "all to be back")
    # The dead-man's identities are older than those of the agents now.
    assert {m["state"] for m in cluster.status("b1")["members"]} == {"up"}


def test_agents_that_stop_all_at_once_withdraw_no_vip_and_one_alone_does(cluster: ClusterLab) -> None:
    with RouterWatch(cluster.lab.nodes["router"].pid, VIP) as watch:
        try:
            cluster.stop_agent("b3")  # the control: a stop withdraws
            wait_for(lambda: cluster.next_hops() == {"b1", "b2", "b4"}, "b3's VIP to be withdrawn")
            cluster.start("b3", "agent")
            wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "b3 to be back")
            began = time.monotonic()
            for node in FOUR:
                cluster.kill(node, "agent", signal.SIGTERM)
            wait_for(lambda: not any(cluster.pids(node, "agent") for node in FOUR), "all to end")
            for number in range(20):
                assert cluster.server_at(("10.1.1.1", 41_000 + number)) in FOUR
        finally:
            for node in FOUR:
                if not cluster.pids(node, "agent"):
                    cluster.start(node, "agent")
            wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "all to be back")
        assert frozenset() not in watch.history.changes(began), "there was a next hop all the time"


# Status


def test_status_shows_weights_version_table_and_last_change_of_each_node(cluster: ClusterLab) -> None:
    b2 = cluster.addresses["b2"]
    before = {m["address"]: m for m in cluster.status("b1")["members"]}
    assert before[b2]["services"] == {"echo": {"state": "up", "weight": 100, "effective": 100}}
    assert before[b2]["version"] == cluster.status("b2")["node"]["version"] > 1_700_000_000
    assert len({cluster.status(node)["services"][0]["digest"] for node in FOUR}) == 1
    cluster.lab.exec("b2", ["lbctl", "drain"])
    try:
        wait_for(lambda: member(cluster, b2)["state"] == "draining", "b1 to learn of it")
        now = member(cluster, b2)
        assert now["services"] == {"echo": {"state": "draining", "weight": 100, "effective": 0}}
        assert now["why"] == "its state changed to draining"
        assert now["since_s"] < 30
        assert now["version"] > before[b2]["version"]
        text = cluster.lab.exec("b1", ["env", "COLUMNS=250", "lbctl", "status"]).stdout
        assert "its state changed to draining" in text
        assert "echo 0/100" in text
    finally:
        cluster.lab.exec("b2", ["lbctl", "undrain"])
        wait_for(cluster.tables_agree, "b2 to be back")


def member(cluster: ClusterLab, address: str) -> dict[str, Any]:
    return next(m for m in cluster.status("b1")["members"] if m["address"] == address)


FOREIGN_SPEAKER = """\
neighbor 10.0.0.1 {{
  router-id {own}; local-address {own}; local-as 65001; peer-as 65000;
  family {{ ipv4 unicast; }}
  static {{ {routes} }}
}}
"""


def identity_route(prefix: str, address: str, own: str) -> str:
    encoded = encode(Identity(4242, IPv4Address(address), 1, {5: ServiceState(1, 1, "up")}, version=2_000_000_000))
    communities = " ".join(":".join(map(str, one)) for one in encoded)
    return f"route {prefix} next-hop {own} large-community [ {communities} ];"


def test_status_names_nodes_with_an_address_or_a_tag_of_another(cluster: ClusterLab) -> None:
    """b5 announces identities of b4, and of 10.1.0.13 with b3's tag."""
    own, b4 = cluster.addresses["b5"], cluster.addresses["b4"]
    routes = identity_route("10.254.0.14/32", b4, own) + identity_route("10.254.0.13/32", "10.1.0.13", own)
    file = cluster.lab.root("b5") / "run/foreign.conf"
    file.write_text(FOREIGN_SPEAKER.format(own=own, routes=routes))
    command = ["env", "exabgp.daemon.user=root", "exabgp", "server", "/run/foreign.conf"]
    foreign = cluster.lab.spawn("b5", command, log=cluster.lab.root("b5") / "run/foreign.log")
    try:
        address_twice = f"this node's address {b4} is announced by another node as well"
        wait_for(lambda: address_twice in " ".join(cluster.status("b4")["problems"]), "b4 to name it")
        wait_for(
            lambda: "have the same tag, 13" in " ".join(cluster.status("b1")["problems"]), "b1 to name the tag", 90
        )
        wait_for(
            lambda: "10.1.0.13 announces itself as a node" in " ".join(cluster.status("b1")["problems"]),
            "b1 to name the third",
        )
        assert "stop one of them" in " ".join(cluster.lab.exec("b4", ["lbctl", "status"]).stdout.split())
        assert cluster.status("b4")["node"]["version"] > 2_000_000_000, "it exceeds the received version"
    finally:
        foreign.terminate()
        foreign.wait(60)
    wait_for(cluster.tables_agree, "equal tables")
    wait_for(lambda: not any(cluster.status(node)["problems"] for node in FOUR), "no problems")


# Damping (last: b2 stays damped for a while)


def connection_to(cluster: ClusterLab, node: str) -> socket.socket:
    """A connection that the node serves."""
    for port in range(50_000, 50_200):
        made = cluster.connect(timeout_s=10, source=("10.1.1.2", port))
        if server_of(made) == node:
            return made
        made.close()
    raise AssertionError(f"{node} served none of 200 connections")


def test_a_flapping_member_gets_no_new_connections_and_keeps_its_old_ones(cluster: ClusterLab) -> None:
    def state() -> str:
        return str(member(cluster, cluster.addresses["b2"])["state"])

    with connection_to(cluster, "b2") as connection:
        deadline = time.monotonic() + 90.0
        while "identity flaps" not in members(cluster)["b2"][1]:
            assert time.monotonic() < deadline, "b2 was never damped"
            cluster.lab.exec("router", ["birdc", "disable", "b2"])
            wait_for(lambda: state() == "lost", "b2 to be lost")
            cluster.lab.exec("router", ["birdc", "enable", "b2"])
            wait_for(lambda: members(cluster)["b2"][1] != "identity withdrawn", "b2 to be advertised again")
        assert state() == "lost"
        status = cluster.service_status("b1")
        assert status is not None
        assert (status.takers, status.listed) == ({"b1", "b3", "b4"}, set(FOUR))
        assert server_of(connection) == "b2"
