# SPDX-License-Identifier: Apache-2.0
"""The agent and lbctl in a real cluster: segment.clab.yml, four nodes, ExaBGP, BIRD, XDP, TCP.

    client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                         └── b5, echo server only

The failures are the demo's (test_demo_run.py); here is what an operator sees and does.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import wait_for

from topology.demo.cluster import VIP, Cluster
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
FILE = Path(__file__).parents[2] / "topology/segment.clab.yml"
FOUR = ("b1", "b2", "b3", "b4")
MEMORY_LIMIT_KB = 90 * 1024


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab.up(FILE, f"agent-test-{os.getpid()}", keep=False) as lab:
        made = Cluster(lab, "bird")
        wait_for(lambda: hops(made) == {made.addresses[node] for node in FOUR}, "four next hops")
        wait_for(lambda: len({view and view.digest for view in map(made.service_status, FOUR)}) == 1, "equal tables")
        yield made


def hops(cluster: Cluster) -> set[str]:
    shown = json.loads(cluster.lab.exec("router", ["ip", "-j", "route", "show", VIP]).stdout or "[]")
    legs = [leg for route in shown for leg in route.get("nexthops", [route])]
    return {leg["gateway"] for leg in legs}


def lbctl(cluster: Cluster, node: str, *arguments: str, code: int = 0) -> Any:
    done = cluster.lab.exec(node, ["lbctl", *arguments], check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if "json" in arguments else done.stdout + done.stderr


def ask_the_vip(cluster: Cluster, source: str, port: int) -> str:
    """Who answers a connection of that very tuple, through router and XDP."""
    with inside_net(cluster.lab.nodes["client"].pid):
        made = socket.create_connection((VIP, 7000), timeout=5, source_address=(source, port))
    with made:
        made.sendall(b"1\n")
        return made.recv(100).split()[0].decode()


def test_status_tells_the_whole_node(cluster: Cluster) -> None:
    status = lbctl(cluster, "b1", "status", "-o", "json")
    assert status["ready"] is True
    assert status["xdp"]["mode"] == "native"
    assert status["xdp"]["attached"] is True
    assert status["vips"] == [{"vip": VIP, "wanted": True, "announced": True, "why": "healthy"}]
    assert {m["address"]: m["state"] for m in status["members"]} == {cluster.addresses[node]: "up" for node in FOUR}
    assert all(member["same_epoch"] for member in status["members"])
    text = lbctl(cluster, "b1", "status")
    for word in ("10.0.0.11 (up)", "XDP native on eth1", "10.0.0.1 up", "healthy", status["services"][0]["digest"]):
        assert word in text


def test_explain_names_the_server_that_really_answers(cluster: Cluster) -> None:
    for number in range(12):
        source, port = f"10.1.1.{number + 1}", 20_000 + 37 * number
        answer = lbctl(cluster, "b2", "explain", f"tcp,{source}:{port},{VIP}:7000", "-o", "json")
        assert len(answer["chain"]) == 4
        owner = next(name for name, address in cluster.addresses.items() if address == answer["chain"][0])
        assert ask_the_vip(cluster, source, port) == owner
        for node in answer["nodes"]:
            forwards = node["syn"].startswith(f"forward to {answer['chain'][0]}")
            assert forwards != (node["node"] == answer["chain"][0])


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("tcp,10.1.1.1:1,10.99.0.1:80", "no service takes tcp 10.99.0.1:80; known: tcp 10.99.0.1:7000"),
        ("udp,10.1.1.1:1,10.99.0.1:7000", "no service takes udp 10.99.0.1:7000; known: tcp 10.99.0.1:7000"),
        ("tcp,10.1.1.1:0,10.99.0.1:7000", "port 0 is not in 1-65535"),
        ("tcp,10.1.1.999:1,10.99.0.1:7000", "10.1.1.999"),
        ("nonsense", "'nonsense' is not a flow; write tcp,192.0.2.7:41000,10.99.0.1:443"),
    ],
)
def test_explain_refuses_what_it_cannot(cluster: Cluster, flow: str, message: str) -> None:
    said = lbctl(cluster, "b1", "explain", flow, code=1)
    assert message in said
    assert len(said.splitlines()) == 1


def test_withdraw_leaves_the_ecmp_set_and_goes_on_serving(cluster: Cluster) -> None:
    assert "10.9.9.9 is not a VIP of this node" in lbctl(cluster, "b3", "announce", "down", "--vip", "10.9.9.9", code=1)
    lbctl(cluster, "b3", "announce", "down", "--vip", VIP)
    try:
        wait_for(lambda: cluster.addresses["b3"] not in hops(cluster), "b3 to leave the next hops")
        status = lbctl(cluster, "b3", "status", "-o", "json")
        assert status["vips"][0]["why"] == "withdrawn by the operator"
        # It still owns its rows: the others forward its flows to it.
        view = cluster.service_status("b1")
        assert view is not None
        assert view.takers == frozenset(FOUR)
        found = {ask_the_vip(cluster, f"10.1.1.{number}", 30_000 + number) for number in range(1, 60)}
        assert found == set(FOUR)
    finally:
        lbctl(cluster, "b3", "announce", "up")
    wait_for(lambda: cluster.addresses["b3"] in hops(cluster), "b3 to be back")


def test_a_second_agent_is_refused_and_harms_nothing(cluster: Cluster) -> None:
    said = lbctl(cluster, "b1", "agent", "run", code=1)
    assert "another agent (pid" in said
    assert lbctl(cluster, "b1", "status", "-o", "json")["ready"] is True


def test_the_wishes_of_an_operator_outlive_the_agent(cluster: Cluster) -> None:
    lbctl(cluster, "b2", "drain")
    wait_for(lambda: cluster.addresses["b2"] not in hops(cluster), "b2 to leave the next hops")
    cluster.kill("b2", "agent")
    wait_for(lambda: not cluster.pids("b2", "agent"), "b2's agent to be gone")
    assert "no agent answers" in lbctl(cluster, "b2", "status", code=3)
    cluster.start("b2", "agent")
    wait_for(lambda: cluster.service_status("b2"), "b2's agent to be ready")
    assert lbctl(cluster, "b2", "status", "-o", "json")["node"]["state"] == "draining"
    assert cluster.addresses["b2"] not in hops(cluster)
    lbctl(cluster, "b2", "undrain")
    wait_for(lambda: cluster.addresses["b2"] in hops(cluster), "b2 to be back")


def test_a_killed_agent_leaves_route_and_data_path_and_its_successor_changes_nothing(cluster: Cluster) -> None:
    wait_for(lambda: len({view and view.digest for view in map(cluster.service_status, FOUR)}) == 1, "equal tables")
    before = lbctl(cluster, "b4", "status", "-o", "json")
    cluster.kill("b4", "agent")
    wait_for(lambda: not cluster.pids("b4", "agent"), "b4's agent to be gone")
    assert "xdp" in cluster.lab.exec("b4", ["ip", "link", "show", "eth1"]).stdout
    assert {ask_the_vip(cluster, f"10.1.1.{number}", 31_000 + number) for number in range(1, 60)} == set(FOUR)
    cluster.start("b4", "agent")
    wait_for(lambda: cluster.service_status("b4"), "b4's agent to be ready")
    after = lbctl(cluster, "b4", "status", "-o", "json")
    assert after["services"][0]["digest"] == before["services"][0]["digest"]
    assert after["services"][0]["counters"]["rx"] >= before["services"][0]["counters"]["rx"]
    assert cluster.addresses["b4"] in hops(cluster)


def test_sigterm_withdraws_first_and_leaves_the_data_path(cluster: Cluster) -> None:
    cluster.kill("b4", "agent", signal.SIGTERM)
    wait_for(lambda: not cluster.pids("b4", "agent"), "b4's agent to end")
    assert cluster.addresses["b4"] not in hops(cluster)
    assert "xdp" in cluster.lab.exec("b4", ["ip", "link", "show", "eth1"]).stdout
    assert not (cluster.lab.root("b4") / "run/anylb/agent.sock").exists()
    cluster.start("b4", "agent")
    wait_for(lambda: cluster.addresses["b4"] in hops(cluster), "b4 to be back")


def test_memory(cluster: Cluster) -> None:
    for node in FOUR:
        for pid in cluster.pids(node, "agent"):
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(fields["VmRSS"].split()[0]) <= MEMORY_LIMIT_KB


def test_the_control_socket_is_roots(cluster: Cluster) -> None:
    said = cluster.lab.exec(
        "b1", ["setpriv", "--reuid=65534", "--clear-groups", "cat", "/run/anylb/agent.sock"], check=False
    )
    assert "Permission denied" in said.stderr
    assert (cluster.lab.root("b1") / "run/anylb/agent.sock").stat().st_mode & 0o777 == 0o600


def test_a_vip_that_others_remove_is_put_back(cluster: Cluster) -> None:
    cluster.lab.exec("b3", ["ip", "address", "del", f"{VIP}/32", "dev", "lo"])
    wait_for(lambda: VIP in cluster.lab.exec("b3", ["ip", "address", "show", "lo"]).stdout, "the VIP on lo")


ASK_WITHOUT_THE_VIP = f"""
import asyncio, subprocess
from ipaddress import IPv4Address
from agent.config.service import HealthConfig
from agent.health.probe import ask
subprocess.run(["ip", "address", "del", "{VIP}/32", "dev", "lo"], check=True)
print(asyncio.run(ask(IPv4Address("{VIP}"), 7000, HealthConfig())))
"""


def test_without_the_vip_another_server_does_not_answer_for_this_one(cluster: Cluster) -> None:
    """The question would leave by the default route, and the router has others to take it to."""
    said = cluster.lab.exec("b3", ["python", "-c", ASK_WITHOUT_THE_VIP]).stdout
    assert said.startswith("(False, "), said
    assert "assign requested address" in said
    wait_for(lambda: VIP in cluster.lab.exec("b3", ["ip", "address", "show", "lo"]).stdout, "the VIP on lo")


def test_another_mac_of_the_interface_is_followed(cluster: Cluster) -> None:
    """Frames to the new MAC are this node's; else established connections would be answered by the wrong kernel."""
    cluster.lab.exec("b3", ["ip", "link", "set", "eth1", "address", "02:00:00:00:aa:03"])
    cluster.lab.exec("b3", ["ip", "route", "replace", "default", "via", "10.0.0.1"])

    def forwards() -> bool:
        before = status_of(cluster, "b3")["services"][0]["counters"]["forward_first"]
        for number in range(1, 40):
            ask_the_vip(cluster, f"10.1.1.{number}", 32_000 + number)
        return status_of(cluster, "b3")["services"][0]["counters"]["forward_first"] > before

    wait_for(lambda: cluster.addresses["b3"] in hops(cluster), "b3 back among the next hops")
    cluster.lab.exec("router", ["ip", "neigh", "flush", "dev", "eth2"])
    assert forwards()


def test_a_full_disk_costs_memory_of_the_past_not_the_agent(cluster: Cluster) -> None:
    """The state file is only ever a shortcut."""
    run = cluster.lab.root("b3") / "run"
    filler = run / "filler"
    cluster.lab.exec("b3", ["mount", "-o", "remount,size=200k", "/run"])
    try:
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        lbctl(cluster, "b3", "drain")
        wait_for(lambda: cluster.addresses["b3"] not in hops(cluster), "b3 to drain")
        assert status_of(cluster, "b3")["ready"] is True
    finally:
        filler.unlink()
        lbctl(cluster, "b3", "undrain")
    wait_for(lambda: cluster.addresses["b3"] in hops(cluster), "b3 to be back")


def test_detach_is_refused_while_the_agent_runs_and_off_takes_the_program_away(cluster: Cluster) -> None:
    assert "another agent (pid" in lbctl(cluster, "b3", "agent", "detach", code=1)
    cluster.kill("b3", "agent", signal.SIGTERM)
    wait_for(lambda: not cluster.pids("b3", "agent"), "b3's agent to end")
    assert "xdp" in cluster.lab.exec("b3", ["ip", "link", "show", "eth1"]).stdout
    cluster.lab.spawn("b3", ["lbctl", "agent", "run", "--xdp", "off"])
    wait_for(lambda: cluster.agent_answers("b3") and status_of(cluster, "b3")["vips"], "b3 to be plain anycast")
    assert "xdp" not in cluster.lab.exec("b3", ["ip", "link", "show", "eth1"]).stdout
    cluster.kill("b3", "agent", signal.SIGTERM)
    wait_for(lambda: not cluster.pids("b3", "agent"), "b3's agent to end")
    assert lbctl(cluster, "b3", "agent", "detach") == "nothing was attached\n"


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def status_of(cluster: Cluster, node: str) -> Any:
    return cluster.request(node, "GET", "/status")
