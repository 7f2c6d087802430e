# SPDX-License-Identifier: Apache-2.0
"""What a node believes when the router errs: segment.clab.yml, four nodes, ExaBGP, BIRD, direct probes.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay and agent
                │                    └── b5
                └ closes the sessions of b2, b3 and b4 at once; the nodes themselves live
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_for

from bgp.community import Identity, ServiceState, encode
from topology.demo.cluster import VIP, Cluster
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
FILE = Path(__file__).parents[2] / "topology/segment.clab.yml"
FOUR = ("b1", "b2", "b3", "b4")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab.up(FILE, f"members-test-{os.getpid()}", keep=False) as lab:
        made = Cluster(lab, "bird")
        wait_for(lambda: equal(made), "equal tables")
        yield made


def equal(cluster: Cluster) -> bool:
    views = [cluster.service_status(node) for node in FOUR]
    return all(view is not None and view == views[0] and view.takers == frozenset(FOUR) for view in views)


def status(cluster: Cluster, node: str = "b1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.lab.exec(node, ["lbctl", "status", "-o", "json"]).stdout)
    return found


def believed(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """b1's (state, why) of the others, by name."""
    names = {address: name for name, address in cluster.addresses.items()}
    return {names[m["address"]]: (m["state"], m["why"]) for m in status(cluster)["members"] if m["why"] != "this node"}


@contextmanager
def sessions_closed(cluster: Cluster) -> Iterator[None]:
    """At the router those of all but b1: what a router does whose limit, filter or memory is at fault."""
    cluster.lab.exec("router", ["sh", "-c", "for n in b2 b3 b4; do birdc disable $n; done"])
    try:
        yield
    finally:
        cluster.lab.exec("router", ["sh", "-c", "for n in b2 b3 b4; do birdc enable $n; done"])
        wait_for(lambda: equal(cluster), "all to be back", 60)


def test_members_that_answer_keep_their_place_when_a_router_loses_most_of_them(cluster: Cluster) -> None:
    cluster.lab.exec("b3", ["lbctl", "agent", "reload"])  # it gives its port to its successor
    wait_for(lambda: equal(cluster), "b3 to be itself again")
    before = status(cluster)["services"][0]["digest"]
    with sessions_closed(cluster):
        wait_for(lambda: {why for _, why in believed(cluster).values()} == {ANSWERS}, "probes to be answered")
        deadline = time.monotonic() + 4.0  # longer than unanswered questions are waited for
        while time.monotonic() < deadline:
            assert {state for state, _ in believed(cluster).values()} == {"up"}
            assert status(cluster)["services"][0]["digest"] == before
            time.sleep(0.2)
        # One of them that really dies now is noticed, though no router tells of it.
        cluster.kill("b4", "agent")
        wait_for(lambda: believed(cluster)["b4"] == ("lost", SILENT), "b4 to be lost")
        assert believed(cluster)["b2"] == believed(cluster)["b3"] == ("up", ANSWERS)
        cluster.start("b4", "agent")
        wait_for(lambda: believed(cluster)["b4"] == ("up", ANSWERS), "b4 to be asked again")


ANSWERS = "no router advertises it, but it replies to probes"
SILENT = "no router advertises it, and it does not reply to probes"
RULE = ["ipproto", "udp", "dport", "4742", "blackhole"]


def test_without_probes_the_same_members_are_lost(cluster: Cluster) -> None:
    """The control: the same fault, with b1's questions dropped on their way."""
    before = status(cluster)["services"][0]["digest"]
    cluster.lab.exec("b1", ["ip", "rule", "add", *RULE])
    try:
        with sessions_closed(cluster):
            wait_for(lambda: set(believed(cluster).values()) == {("lost", SILENT)}, "all to be lost")
            assert status(cluster)["services"][0]["digest"] != before
    finally:
        cluster.lab.exec("b1", ["ip", "rule", "del", *RULE])


def test_one_that_vanishes_alone_is_lost_at_once_and_is_not_asked(cluster: Cluster) -> None:
    cluster.lab.exec("router", ["birdc", "disable", "b2"])
    try:
        wait_for(lambda: believed(cluster)["b2"] == ("lost", "identity withdrawn"), "b2 to be lost")
        assert believed(cluster)["b3"][0] == believed(cluster)["b4"][0] == "up"
    finally:
        cluster.lab.exec("router", ["birdc", "enable", "b2"])
        wait_for(lambda: equal(cluster), "b2 to be back", 60)


# The dead-man's floor


def hops(cluster: Cluster) -> set[str]:
    """Who is in the router's ECMP set, by name."""
    shown = json.loads(cluster.lab.exec("router", ["ip", "-j", "route", "show", VIP]).stdout or "[]")
    legs = [leg for route in shown for leg in route.get("nexthops", [route])]
    return {cluster.names[leg["gateway"]] for leg in legs}


def answers(cluster: Cluster, port: int) -> str:
    """Who answers a connection from the client."""
    with inside_net(cluster.lab.nodes["client"].pid):
        made = socket.create_connection((VIP, 7000), timeout=5, source_address=("10.1.1.1", port))
    with made:
        made.sendall(b"1\n")
        return made.recv(100).split()[0].decode()


def relays_that(cluster: Cluster, said: str) -> list[str]:
    return [n for n in FOUR if said in (cluster.lab.root(n) / "var/log/anylb/bgp.log").read_text()]


def test_the_dead_man_withdraws_one_silent_node_but_not_a_cluster_of_them(cluster: Cluster) -> None:
    held = "and its VIPs: fewer than half of the announcers remain"
    try:
        cluster.kill("b3", "agent")
        wait_for(lambda: hops(cluster) == {"b1", "b2", "b4"}, "b3's VIP to be withdrawn")
        cluster.start("b3", "agent")
        wait_for(lambda: equal(cluster) and hops(cluster) == set(FOUR), "b3 to be back", 60)
        assert relays_that(cluster, held) == []
        for node in FOUR:
            cluster.kill(node, "agent")
        wait_for(lambda: relays_that(cluster, held) == list(FOUR), "all relays to hold", 60)
        wait_for(lambda: hops(cluster) == set(FOUR), "all to be announced")
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            assert hops(cluster) == set(FOUR), "no two relays take turns"
            time.sleep(0.2)
        assert {answers(cluster, 40_000 + number) for number in range(60)} == set(FOUR)
    finally:
        for node in FOUR:
            if not cluster.pids(node, "agent"):
                cluster.start(node, "agent")
        wait_for(lambda: equal(cluster) and hops(cluster) == set(FOUR), "all to be back", 60)
    # What the dead-man said is older than what the agents say now.
    assert {m["state"] for m in status(cluster)["members"]} == {"up"}


# What status says


def test_status_tells_of_each_node_its_weights_version_table_and_last_change(cluster: Cluster) -> None:
    b2 = cluster.addresses["b2"]
    before = {m["address"]: m for m in status(cluster)["members"]}
    assert before[b2]["services"] == {"echo": {"state": "up", "weight": 100, "effective": 100}}
    assert before[b2]["version"] == status(cluster, "b2")["node"]["version"] > 1_700_000_000
    assert len({status(cluster, node)["services"][0]["digest"] for node in FOUR}) == 1
    cluster.lab.exec("b2", ["lbctl", "drain"])
    try:
        wait_for(lambda: member(cluster, b2)["state"] == "draining", "b1 to hear of it")
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
        wait_for(lambda: equal(cluster), "b2 to be back", 60)


def member(cluster: Cluster, address: str) -> dict[str, Any]:
    return next(m for m in status(cluster)["members"] if m["address"] == address)


STRANGER = """\
neighbor 10.0.0.1 {{
  router-id {own}; local-address {own}; local-as 65001; peer-as 65000;
  family {{ ipv4 unicast; }}
  static {{ {routes} }}
}}
"""


def identity_route(prefix: str, address: str, own: str) -> str:
    said = encode(Identity(4242, IPv4Address(address), 1, {5: ServiceState(1, 1, "up")}, version=2_000_000_000))
    communities = " ".join(":".join(map(str, one)) for one in said)
    return f"route {prefix} next-hop {own} large-community [ {communities} ];"


def test_status_names_nodes_with_an_address_or_a_tag_of_another(cluster: Cluster) -> None:
    """b5 says that it is b4, and 10.1.0.13, which has b3's tag."""
    own, b4 = cluster.addresses["b5"], cluster.addresses["b4"]
    routes = identity_route("10.254.0.14/32", b4, own) + identity_route("10.254.0.13/32", "10.1.0.13", own)
    file = cluster.lab.root("b5") / "run/stranger.conf"
    file.write_text(STRANGER.format(own=own, routes=routes))
    command = ["env", "exabgp.daemon.user=root", "exabgp", "server", "/run/stranger.conf"]
    cluster.lab.spawn("b5", command, log=cluster.lab.root("b5") / "run/stranger.log")
    try:
        address_twice = f"this node's address {b4} is announced by another node as well"
        wait_for(lambda: address_twice in " ".join(status(cluster, "b4")["problems"]), "b4 to name it", 90)
        wait_for(lambda: "have the same tag, 13" in " ".join(status(cluster)["problems"]), "b1 to name the tag", 90)
        wait_for(
            lambda: "10.1.0.13 announces itself as a node" in " ".join(status(cluster)["problems"]),
            "b1 to name the stranger",
        )
        assert "stop one of them" in " ".join(cluster.lab.exec("b4", ["lbctl", "status"]).stdout.split())
        assert status(cluster, "b4")["node"]["version"] > 2_000_000_000, "it exceeds what it hears"
    finally:
        cluster.stop("b5", "speaker")
    wait_for(lambda: equal(cluster), "all to be well", 60)
    wait_for(lambda: not any(status(cluster, node)["problems"] for node in FOUR), "nothing more to be told")


# Damping (last: b2 stays damped for a while)


def open_to(cluster: Cluster, node: str) -> socket.socket:
    """A connection that the node serves."""
    for port in range(50_000, 50_200):
        with inside_net(cluster.lab.nodes["client"].pid):
            made = socket.create_connection((VIP, 7000), timeout=10, source_address=("10.1.1.2", port))
        if says(made) == node:
            return made
        made.close()
    raise AssertionError(f"none of 200 connections was served by {node}")


def says(connection: socket.socket) -> str:
    connection.sendall(b"1\n")
    return connection.recv(100).split()[0].decode()


def test_a_member_that_comes_and_goes_gets_no_new_connections_and_keeps_its_old_ones(cluster: Cluster) -> None:
    def state() -> str:
        return str(member(cluster, cluster.addresses["b2"])["state"])

    with open_to(cluster, "b2") as connection:
        deadline = time.monotonic() + 90.0
        while "identity flaps" not in believed(cluster)["b2"][1]:
            assert time.monotonic() < deadline, "b2 was never damped"
            cluster.lab.exec("router", ["birdc", "disable", "b2"])
            wait_for(lambda: state() == "lost", "b2 to be lost")
            cluster.lab.exec("router", ["birdc", "enable", "b2"])
            wait_for(lambda: believed(cluster)["b2"][1] != "identity withdrawn", "b2 to be told again")
        assert state() == "lost"
        view = cluster.service_status("b1")
        assert view is not None
        assert (view.takers, view.listed) == ({"b1", "b3", "b4"}, set(FOUR))
        assert says(connection) == "b2"
