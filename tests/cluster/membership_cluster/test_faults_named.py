# SPDX-License-Identifier: Apache-2.0
"""Nodes and networks that are set up wrongly, and neighbors that lie: nothing breaks, and each is named.

The control of the lies is the router without the printed import filters: there they arrive, and are named.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_lab import FOUR, VIP, ClusterLab
from support.lying_speaker import LIES_ACCEPTED, announced_by_b5
from support.membership import KEY, KEY_FILE, settled
from support.night_faults import router_has
from support.segment_faults import PORTS, cut_off, dropped, end, joined, other_configuration, to_mac, udp_to
from support.sequence import Sequence, patient_traffic
from support.waiting import wait_for

from agent.membership.obstacle import MAX_LINES
from bpf.layout.echo import EchoKind, EchoMessage
from topology.traffic.controller import TrafficController

pytestmark = pytest.mark.lab
HELD = 100
ECHO_PORT, GUE_PORT = 4742, 6080
NAMED_S = 120.0
"""A contradiction is named after 5 s here; the machine may be busy."""


@pytest.fixture(scope="module")
def traffic(running: ClusterLab) -> Iterator[TrafficController]:
    made = patient_traffic(running)
    yield made
    made.quit()


@pytest.fixture
def sequence(cluster: ClusterLab, traffic: TrafficController, request: pytest.FixtureRequest) -> Sequence:
    """A sequence that begins with held connections."""
    made = Sequence(cluster, traffic, request.node.name.removeprefix("test_"))
    made.open(HELD)
    return made


def problems(cluster: ClusterLab, node: str) -> str:
    return "\n".join(cluster.status(node)["problems"])


def silent(cluster: ClusterLab) -> set[tuple[str, str]]:
    """Return which nodes do not reach each other."""
    return {
        (node, cluster.names[one["address"]])
        for node in FOUR
        for one in cluster.status(node)["members"]
        if one["silent_s"] is not None
    }


def wait_until_named(cluster: ClusterLab, node: str, *texts: str) -> None:
    for text in texts:
        wait_for(lambda text=text: text in problems(cluster, node), f"{node} to say: {text}", NAMED_S)


# Neighbors that lie

PHANTOMS = [f"10.0.0.{last}" for last in range(50, 250)]
ROUTER = "10.0.0.1"


def routes_of_b5(cluster: ClusterLab) -> int:
    """Return how many routes the router has from b5."""
    output = cluster.lab.exec("router", ["birdc", "show", "route", "protocol", "b5", "count"], check=False).stdout
    return int(output.splitlines()[1].split()[0])


def session_of_b5(cluster: ClusterLab) -> bool:
    return "Established" in cluster.lab.exec("router", ["birdc", "show", "protocols", "b5"], check=False).stdout


@pytest.mark.parametrize("filters", ["printed", pytest.param("none", marks=pytest.mark.slow)])
def test_speaker_that_lies(cluster: ClusterLab, sequence: Sequence, filters: str) -> None:
    """b5 repeats an old identity of b3, and announces others' identities, the router as a node, and 200 phantoms."""
    lies = (cluster.addresses["b3"], cluster.addresses["b4"], ROUTER, *PHANTOMS)
    wait_for(lambda: not problems(cluster, "b1"), "no former problem")
    before = cluster.service_status("b1")
    replaced = (*LIES_ACCEPTED, "receive limit 16", "receive limit 1000") if filters == "none" else ()
    with router_has(cluster, *replaced), announced_by_b5(cluster, *((address, None) for address in lies)):
        wait_for(lambda: session_of_b5(cluster), "b5's session")
        if filters == "none":
            wait_for(lambda: routes_of_b5(cluster) == len(lies), "all lies to arrive")
            wait_until_named(cluster, "b1", f"{ROUTER} is named, but its data path does not answer")
            wait_until_named(cluster, "b1", f"{len(PHANTOMS) + 1 - MAX_LINES} more like this: ")
            wait_until_named(cluster, "b3", "is announced by another node as well")
        else:
            assert routes_of_b5(cluster) == 0
            assert not problems(cluster, "b1")
        assert {cluster.service_status(node) for node in FOUR} == {before}
        assert not silent(cluster)
        outcome = sequence.outcome()
    assert (outcome.broken, outcome.failed) == (0, 0)


# The network


@pytest.mark.slow
def test_tunnels_filtered_by_the_fabric(cluster: ClusterLab, sequence: Sequence) -> None:
    """No node is silent; each node's losses are named. An agent that starts asks by all ways at once."""
    addresses = cluster.addresses
    sequence.fault()
    with dropped(cluster, {port: [udp_to(GUE_PORT)] for port in PORTS.values()}):
        cluster.stop_agent("b1", signal.SIGKILL)
        cluster.start_agent("b1")
        wait_for(lambda: all_asked(cluster), "all to be asked by both ways, and the losses to be counted")
        assert all(way["gue"]["rtt_ms"] is None for way in ways(cluster))
        wait_until_named(cluster, "b1", *(f"{addresses[node]} answers, but not by gue" for node in FOUR[1:]))
        assert not silent(cluster)
    assert sequence.outcome().broken == 0


def all_asked(cluster: ClusterLab) -> bool:
    """Whether b1 has answers of all others by the plain way, and several losses by the tunnel."""
    found = [way for way in ways(cluster) if way.keys() >= {"plain", "gue"}]
    return len(found) == len(FOUR) - 1 and all(
        way["plain"]["rtt_ms"] is not None and way["gue"]["unanswered"] >= 4 for way in found
    )


def ways(cluster: ClusterLab) -> list[dict[str, dict[str, float]]]:
    return [one["echo"]["ways"] for one in cluster.status("b1")["members"] if one["echo"] is not None]


def test_port_closed_on_one_node(cluster: ClusterLab, sequence: Sequence) -> None:
    """b4's kernel drops the port of echo and channel, answers included; its data path answers before that.

    So it is asked, and receives no answer: the fault is its own, and it takes no node for silent.
    """
    sequence.fault()
    with dropped(cluster, {"eth1": [udp_to(ECHO_PORT)]}, node="b4"):
        wait_until_named(cluster, "b4", f"other nodes ask this one on UDP {ECHO_PORT}, but none answers it")
        wait_until_named(cluster, "b1", f"{cluster.addresses['b4']} answers, but reports that it is not ready")
        assert not silent(cluster)
    outcome = sequence.outcome()
    assert outcome.broken == 0
    assert outcome.silence_s < 10, "nothing was dropped for as long as the port was closed"


def test_loss_in_one_direction(cluster: ClusterLab, sequence: Sequence) -> None:
    """What b3 sends reaches no other node, and nothing that others send reaches b4; the router reaches both."""
    addresses, mac = cluster.addresses, cluster.mac
    ways = {PORTS[node]: [to_mac(mac("b4"))] for node in ("b1", "b2")}
    ways[PORTS["b3"]] = [to_mac(mac(node)) for node in ("b1", "b2", "b4")]
    sequence.fault()
    with dropped(cluster, ways):
        wait_until_named(
            cluster, "b3", f"other nodes ask this one on UDP {ECHO_PORT}, but none answers it: it keeps its"
        )
        wait_until_named(cluster, "b4", f"{addresses['b1']} is named, but its data path does not answer on UDP")
        wait_until_named(
            cluster,
            "b1",
            f"{addresses['b3']} is named, but its data path does not answer on UDP",
            f"{addresses['b4']} is named, but its data path does not answer on UDP",
        )
    assert sequence.outcome().broken == 0


FLOOD = """
import socket, sys, time
question = bytes.fromhex(sys.argv[3])
sender, end, sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), time.monotonic() + 5, 0
sender.connect((sys.argv[1], int(sys.argv[2])))
while time.monotonic() < end:
    for _ in range(100):
        sent += sender.send(question) > 0
print(sent)
"""


def test_flood_of_questions_by_a_local_user(cluster: ClusterLab, sequence: Sequence) -> None:
    # Debian's python3 alone: the tree may be below a folder that others may not read, as /root.
    argv = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-I", "-c", FLOOD]
    question = EchoMessage(EchoKind.QUESTION, 4242, 7).pack().hex()
    log = cluster.lab.root("b1") / "run/flood.log"
    sequence.fault()
    flood = cluster.lab.spawn("b1", [*argv, cluster.addresses["b3"], str(ECHO_PORT), question], log)
    found: set[tuple[str, str]] = set()
    while flood.poll() is None:
        found |= silent(cluster)
        time.sleep(0.05)
    assert flood.returncode == 0, log.read_text()
    assert int(log.read_text()) > 10_000
    assert not found
    assert sequence.outcome().broken == 0


# The key, members without BGP


def test_key_rotation_under_traffic(cluster: ClusterLab, sequence: Sequence) -> None:
    """Each step on one node, its file copied to all, and all reloaded; no key is unknown to any node meanwhile."""
    files = {node: cluster.lab.root(node) / str(KEY_FILE)[1:] for node in cluster.addresses}
    sequence.fault()
    for step in ("rotate", "promote", "forget"):
        cluster.lbctl("b1", "key", step)
        for file in files.values():
            file.write_text(files["b1"].read_text())
        for node in FOUR:
            cluster.lbctl(node, "agent", "reload")
            wait_for(lambda node=node: cluster.service_status(node), f"{node} to be ready")
            assert not [line for one in FOUR for line in cluster.status(one)["problems"] if "key" in line]
        wait_for(lambda: settled(cluster), "equal tables")
    assert KEY not in files["b4"].read_text()
    outcome = sequence.outcome()
    assert (outcome.broken, outcome.failed) == (0, 0)


def test_static_member_without_bgp(cluster: ClusterLab, folder: Path, sequence: Sequence) -> None:
    """b5 has an agent and no speaker: it serves what the others forward, and leaves again."""
    text, five = (folder / "lb.yml").read_text(), (*FOUR, "b5")
    sequence.fault()
    (folder / "lb.yml").write_text(f"{text}  static: [{', '.join(cluster.addresses[node] for node in five)}]\n")
    try:
        for node in FOUR:
            cluster.lbctl(node, "agent", "reload")
        with joined(cluster, "b5", "agent"):
            wait_for(lambda: cluster.tables_agree(five, five), "b5 to be a member")
            assert cluster.next_hops() == set(FOUR)
            assert "b5" in {cluster.server_at(("10.1.1.5", 40_000 + number)) for number in range(60)}
            wait_for(lambda: cluster.tables_agree(five, five), "equal tables")
    finally:
        (folder / "lb.yml").write_text(text)
        for node in FOUR:
            cluster.lbctl(node, "agent", "reload")
    outcome = sequence.outcome()
    assert outcome.broken == 0


# Configurations that differ


def test_another_cluster_at_a_members_address(cluster: ClusterLab, folder: Path, sequence: Sequence) -> None:
    """b4 dies and boots with another number. It announces nothing, and asks b1: its echoes show both ends the fault."""
    addresses, living = cluster.addresses, FOUR[:3]
    text = (folder / "lb.yml").read_text() + f"  static: [{addresses['b1']}]\n"
    for old, new in ("cluster: 4242", "cluster: 4243"), ("interface: eth1", "interface: eth1\n  announce: false"):
        text = text.replace(old, new)
    sequence.fault()
    with cut_off(cluster, "b4"):
        end(cluster, "b4")
        sequence.forget("b4")
        wait_for(lambda: cluster.tables_agree(living, living), "b4 to be lost")
    try:
        with other_configuration(cluster, "b4", text):
            wait_until_named(
                cluster, "b1", f"{addresses['b4']} speaks for cluster 4243, this node for cluster 4242: give"
            )
            wait_until_named(cluster, "b4", f"{addresses['b1']} is named, but its data path does not answer on UDP")
            assert cluster.tables_agree(living, living)
            assert cluster.next_hops() == set(living)
            outcome = sequence.outcome()
    finally:
        cluster.start("b4", "speaker", "agent")
    assert outcome.broken == 0


def test_configurations_that_differ(cluster: ClusterLab, folder: Path) -> None:
    """b5 has another key, b6 another cluster number, b2 one more service: each is named on both ends.

    b6 is alone in its cluster and announces this one's VIP: what the router sends there is reset, so none is counted.
    """
    text, addresses = (folder / "lb.yml").read_text(), cluster.addresses
    further = (
        "\n  - {name: more, vip: 10.99.0.1, protocol: tcp, port: 7001, forward: gue, health: {port: 7000}}\n\nbgp:"
    )
    other_cluster = text.replace("cluster: 4242", "cluster: 4243")
    with (
        other_configuration(cluster, "b5", text),
        other_configuration(cluster, "b6", other_cluster),
    ):
        (folder / "lb.yml").write_text(text.replace("\nbgp:", further))
        try:
            cluster.lbctl("b2", "agent", "reload")
            wait_until_named(
                cluster,
                "b1",
                f"{addresses['b5']} signs with another key: give all nodes the same members.key_file",
                f"{addresses['b6']} announces {VIP} for cluster 4243, this node for cluster 4242: give both nodes the",
                f"{addresses['b2']} serves 10.99.0.1:7001/tcp, this node :7000",
            )
            wait_until_named(cluster, "b5", f"{addresses['b1']} signs with another key")
            wait_until_named(cluster, "b6", f"{addresses['b1']} announces {VIP} for cluster 4242, this node for")
            wait_until_named(cluster, "b2", "this node serves 10.99.0.1:7001/tcp")
            assert {cluster.names[m["address"]] for m in cluster.status("b1")["members"]} == set(FOUR)
        finally:
            (folder / "lb.yml").write_text(text)
            cluster.lbctl("b2", "agent", "reload")
