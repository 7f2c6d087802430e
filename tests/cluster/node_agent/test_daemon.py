# SPDX-License-Identifier: Apache-2.0
"""The agent in a real cluster: what it counts and reports, its end and its next start, and what is changed under it.

The demo covers the failures (tests/topology/demo).
"""

import contextlib
import http.client
import json
import signal
import time
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from support.cluster_lab import FOUR, ClusterLab, server_of
from support.waiting import wait_for

from bgp.relay.deadman import DEADMAN_S
from topology.demo.cluster import VIP
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
MEMORY_LIMIT_KB = 90 * 1024
CONNECTIONS = 2000


def failed_for_doctor(cluster: ClusterLab, node: str) -> set[str]:
    done = cluster.lab.exec(node, ["lbctl", "doctor", "-o", "json"], check=False)
    found = {one["subject"] for one in json.loads(done.stdout)["findings"] if one["state"] == "failed"}
    assert done.returncode == (1 if found else 0)
    return found


def test_doctor_names_a_server_that_has_ended(cluster: ClusterLab) -> None:
    """Of a node that is well nothing failed; a server that ended is named until it is back."""
    wait_for(lambda: not failed_for_doctor(cluster, "b3"), "nothing to have failed")
    assert "ok    kernel: " in cluster.lbctl("b3", "doctor")
    cluster.kill("b3", "server", signal.SIGTERM)
    try:
        wait_for(lambda: "service echo" in failed_for_doctor(cluster, "b3"), "the end of the server to be named")
    finally:
        cluster.start("b3", "server")
    wait_for(lambda: not failed_for_doctor(cluster, "b3"), "the server and its health to be back")
    wait_for(cluster.tables_agree, "equal tables")


def counts(cluster: ClusterLab, field: str = "held") -> dict[str, int]:
    """Return a number of `lbctl connections` of each node that is not 0."""
    found = {node: cluster.request(node, "GET", "/connections")["services"][0][field] for node in FOUR}
    return {node: number for node, number in found.items() if number}


def test_connections_are_counted_where_they_are(cluster: ClusterLab) -> None:
    """b2's server listens on `::`, the others on 0.0.0.0. Health checks, which run meanwhile, do not count."""
    cluster.stop("b2", "server")
    wait_for(lambda: cluster.tables_agree(takers={"b1", "b3", "b4"}), "b2 to be unhealthy")
    cluster.lab.spawn("b2", ["python", "-m", "topology.traffic.server", "--address", "::"])
    wait_for(lambda: cluster.tables_agree() and cluster.next_hops() == set(FOUR), "b2 to be healthy again")
    wait_for(lambda: counts(cluster) == {}, "no connection of an earlier test")
    with contextlib.ExitStack() as open_here:
        opened = [open_here.enter_context(one) for one in cluster.connect_many(CONNECTIONS)]
        servers = [server_of(one) for one in opened]
        expected = dict(Counter(servers))
        assert set(expected) == set(FOUR)
        wait_for(lambda: counts(cluster) == expected, f"the counts {expected}")
        assert counts(cluster, "owned") == expected
        assert counts(cluster, "not_in_chain") == {}
        before = cluster.request("b2", "GET", "/connections")["services"][0]["oldest_s"]
        wait_for(lambda: cluster.request("b2", "GET", "/connections")["services"][0]["oldest_s"] > before, "an age")
        text = cluster.lbctl("b2", "connections", "--service", "echo")
        assert text.splitlines()[1].split()[:4] == ["echo", "tcp", f"{VIP}:7000", f"{expected['b2']:,}"]
        assert cluster.status("b2")["connections"]["held"] == expected["b2"], "the last count"

        cluster.lbctl("b2", "drain")
        try:
            wait_for(lambda: counts(cluster, "later") == {"b2": expected["b2"]}, "b2 to own none of its connections")
            assert counts(cluster) == expected
            few = cluster.lbctl("b2", "drain", "--wait", "--until-below", str(CONNECTIONS), "-o", "json")
            assert few["held"] == expected["b2"]
            late = cluster.lbctl("b2", "drain", "--wait", "--timeout", "1s", code=4)
            assert f"{expected['b2']:,} connections are open; the node stays drained" in late
            for one, server in zip(opened, servers, strict=True):
                if server == "b2":
                    one.close()
            assert cluster.lbctl("b2", "drain", "--wait") == "drained, 0 connections are open\n"
            del expected["b2"]
            wait_for(lambda: counts(cluster) == expected, "only b2's to be gone")
        finally:
            cluster.lbctl("b2", "undrain")
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "b2 to be back")


def test_connections_refuses_a_service_that_is_not_here(cluster: ClusterLab) -> None:
    output = cluster.lbctl("b1", "connections", "--service", "web", code=1)
    assert output == "lbctl: web is not a service of this node; it has echo\n"


def test_withdraw_leaves_the_ecmp_set_and_goes_on_serving(cluster: ClusterLab) -> None:
    assert "10.9.9.9 is not a VIP of this node" in cluster.lbctl("b3", "announce", "down", "--vip", "10.9.9.9", code=1)
    cluster.lbctl("b3", "announce", "down", "--vip", VIP)
    try:
        wait_for(lambda: "b3" not in cluster.next_hops(), "b3 to leave the next hops")
        status = cluster.lbctl("b3", "status", "-o", "json")
        assert status["vips"][0]["why"] == "withdrawn by the operator"
        # It still owns its rows: the others forward its flows to it.
        status = cluster.service_status("b1")
        assert status is not None
        assert status.takers == frozenset(FOUR)
        found = {cluster.server_at((f"10.1.1.{number}", 30_000 + number)) for number in range(1, 60)}
        assert found == set(FOUR)
    finally:
        cluster.lbctl("b3", "announce", "up")
    wait_for(lambda: "b3" in cluster.next_hops(), "b3 to be back")


def test_a_second_agent_is_refused_and_harms_nothing(cluster: ClusterLab) -> None:
    output = cluster.lbctl("b1", "agent", "run", code=1)
    assert "another agent (pid" in output
    assert cluster.lbctl("b1", "status", "-o", "json")["ready"] is True


def test_a_drain_outlives_the_agent(cluster: ClusterLab) -> None:
    cluster.lbctl("b2", "drain")
    wait_for(lambda: "b2" not in cluster.next_hops(), "b2 to leave the next hops")
    cluster.stop_agent("b2", signal.SIGKILL)
    assert "no agent answers" in cluster.lbctl("b2", "status", code=3)
    cluster.start_agent("b2")
    assert cluster.lbctl("b2", "status", "-o", "json")["node"]["state"] == "draining"
    assert "b2" not in cluster.next_hops()
    cluster.lbctl("b2", "undrain")
    wait_for(lambda: "b2" in cluster.next_hops(), "b2 to be back")
    events = cluster.lbctl("b2", "events", "--since", "1h")
    cause = events.rindex("requested: /drain")
    drained = events.index(f"{VIP}: not announcing", cause)
    assert drained < events.index("requested: /undrain", cause), "the cause, what followed, and its end"
    assert f"member {cluster.addresses['b2']}: draining" in cluster.lbctl("b1", "events", "--since", "1h")


def test_a_killed_agent_leaves_route_and_data_path_and_the_next_one_changes_nothing(cluster: ClusterLab) -> None:
    wait_for(cluster.tables_agree, "equal tables")
    before = cluster.lbctl("b4", "status", "-o", "json")
    ports = count(31_000)

    def replace() -> None:
        cluster.stop_agent("b4", signal.SIGKILL)
        assert "xdp" in cluster.lab.exec("b4", ["ip", "link", "show", "eth1"]).stdout
        servers = {cluster.server_at((f"10.1.1.{number}", next(ports))) for number in range(1, 60)}
        assert servers == set(FOUR)
        cluster.start_agent("b4")

    cluster.replace_agent(replace, lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree())
    after = cluster.lbctl("b4", "status", "-o", "json")
    assert after["services"][0]["digest"] == before["services"][0]["digest"]
    assert after["services"][0]["counters"]["rx"] >= before["services"][0]["counters"]["rx"]
    assert "b4" in cluster.next_hops()


def test_sigterm_withdraws_first_and_leaves_the_data_path(cluster: ClusterLab) -> None:
    cluster.stop_agent("b4")
    wait_for(lambda: "b4" not in cluster.next_hops(), "the VIP to be withdrawn, not by the dead-man", DEADMAN_S / 2)
    assert "xdp" in cluster.lab.exec("b4", ["ip", "link", "show", "eth1"]).stdout
    assert not (cluster.lab.root("b4") / "run/anylb/agent.sock").exists()
    cluster.start("b4", "agent")
    wait_for(lambda: "b4" in cluster.next_hops(), "b4 to be back")


def test_memory(cluster: ClusterLab) -> None:
    for node in FOUR:
        for pid in cluster.pids(node, "agent"):
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(fields["VmRSS"].split()[0]) <= MEMORY_LIMIT_KB


def test_only_root_opens_the_control_socket(cluster: ClusterLab) -> None:
    output = cluster.lab.exec(
        "b1", ["setpriv", "--reuid=65534", "--clear-groups", "cat", "/run/anylb/agent.sock"], check=False
    )
    assert "Permission denied" in output.stderr
    has_group = "\nanylb:" in Path("/etc/group").read_text()  # its members may read the agent's state
    mode = (cluster.lab.root("b1") / "run/anylb/agent.sock").stat().st_mode & 0o777
    assert mode == (0o660 if has_group else 0o600)


def test_check_is_ok_and_names_a_hung_agent_within_two_seconds(cluster: ClusterLab) -> None:
    cluster.lbctl("b1", "status", "--wait", "healthy", "--timeout", "60s")
    ok = "OK: node 10.0.0.11 is up; 1 of 1 services healthy, 4 of 4 members"
    wait_for(lambda: cluster.lab.exec("b1", ["lbctl", "check"], check=False).stdout.startswith(ok), "b1 to be well")
    wait_for(lambda: names_a_hung_agent_in_time(cluster, "b1"), "a check that takes no longer, but for lbctl's start")


def names_a_hung_agent_in_time(cluster: ClusterLab, node: str) -> bool:
    """Stop a node's agent for a check; return whether this took at most 2 s longer than one that is answered."""
    cluster.lbctl(node, "status", "--wait", "ready", "--timeout", "3m")
    began = time.monotonic()
    cluster.lab.exec(node, ["lbctl", "check"], check=False)
    answered_s = time.monotonic() - began
    cluster.kill(node, "agent", signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert "does not answer" in cluster.lbctl(node, "check", code=2)
        return time.monotonic() - began < 2 + answered_s
    finally:
        cluster.kill(node, "agent", signal.SIGCONT)


def test_a_scrape_and_the_status_agree(cluster: ClusterLab) -> None:
    def get(path: str) -> tuple[int, str]:
        with inside_net(cluster.lab.nodes["b1"].pid):
            connection = http.client.HTTPConnection("127.0.0.1", 9742, timeout=60)
            connection.request("GET", path)
        response = connection.getresponse()
        with contextlib.closing(connection):
            return response.status, response.read().decode()

    before = cluster.service_counters("echo", ["b1"])["b1"]["deliver_owner"]
    lines = get("/metrics")[1].splitlines()
    label = 'event="deliver_owner",service="echo",verdict="deliver"'
    (count,) = [float(line.rpartition(" ")[2]) for line in lines if label in line]
    assert before <= count <= cluster.service_counters("echo", ["b1"])["b1"]["deliver_owner"]
    assert 'anylb_bgp_session_up{peer="10.0.0.1"} 1.0' in lines
    assert sum(line.startswith("anylb_member_up{") and line.endswith(" 1.0") for line in lines) == 4
    assert get("/health")[0] == 200


def test_check_names_a_server_that_is_down_and_warns(cluster: ClusterLab) -> None:
    cluster.stop("b2", "server")
    try:
        wait_for(lambda: cluster.lab.exec("b2", ["lbctl", "check"], check=False).returncode == 1, "a warning")
        assert "echo is unhealthy here" in cluster.lbctl("b2", "check", code=1)
    finally:
        cluster.start("b2", "server")
    cluster.lbctl("b2", "status", "--wait", "--timeout", "3m")


def test_a_removed_vip_and_a_changed_setting_are_restored_at_once(cluster: ClusterLab) -> None:
    """By the kernel's notices: by itself the agent looks only every 5 s, so it would find none of them soon after the
    one before. On a busy machine some come late all the same."""
    settings = ["net.ipv4.conf.eth1.arp_ignore", "net.ipv4.conf.eth1.rp_filter"]
    took_s = []
    for _ in range(10):
        cluster.lab.exec("b3", ["ip", "address", "del", f"{VIP}/32", "dev", "lo"])
        cluster.lab.exec("b3", ["sysctl", "-w", f"{settings[0]}=0", f"{settings[1]}=1"])
        began = time.monotonic()
        wait_for(lambda: VIP in cluster.lab.exec("b3", ["ip", "address", "show", "lo"]).stdout, "the VIP on lo")
        wait_for(lambda: cluster.lab.exec("b3", ["sysctl", "-n", *settings]).stdout == "1\n2\n", "the settings")
        took_s.append(time.monotonic() - began)
        if sum(seconds < 2 for seconds in took_s) == 3:
            return
    pytest.fail(f"restored after {took_s} s")


PROBE_WITHOUT_THE_VIP = f"""
import asyncio, subprocess
from ipaddress import IPv4Address
from agent.config.health import TcpCheckConfig
from agent.health.probe import probe_of
subprocess.run(["ip", "address", "del", "{VIP}/32", "dev", "lo"], check=True)
print(asyncio.run(probe_of((IPv4Address("{VIP}"), 7000), TcpCheckConfig())()))
"""


def test_without_the_vip_another_server_does_not_answer_for_this_one(cluster: ClusterLab) -> None:
    """The probe would leave by the default route, and the router would forward it to another server."""
    cluster.kill("b3", "agent", signal.SIGSTOP)  # it would put the VIP back at once
    try:
        output = cluster.lab.exec("b3", ["python", "-c", PROBE_WITHOUT_THE_VIP]).stdout
    finally:
        cluster.kill("b3", "agent", signal.SIGCONT)
    assert output.startswith("(False, "), output
    assert "assign requested address" in output
    wait_for(lambda: VIP in cluster.lab.exec("b3", ["ip", "address", "show", "lo"]).stdout, "the VIP on lo")


def test_a_changed_mac_of_the_interface_is_followed(cluster: ClusterLab) -> None:
    """Frames to the new MAC are this node's; else the wrong kernel would answer established connections."""
    cluster.lab.exec("b3", ["ip", "link", "set", "eth1", "address", "02:00:00:00:aa:03"])
    cluster.lab.exec("b3", ["ip", "route", "replace", "default", "via", "10.0.0.1"])

    ports = count(32_000)

    def forwards() -> bool:
        """Each try by new ports: those of the one before are in TIME-WAIT."""
        before = cluster.status("b3")["services"][0]["counters"]["forward_first"]
        for number in range(1, 40):
            cluster.server_at((f"10.1.1.{number}", next(ports)))
        return cluster.status("b3")["services"][0]["counters"]["forward_first"] > before

    wait_for(lambda: "b3" in cluster.next_hops(), "b3 to be back")
    cluster.lab.exec("router", ["ip", "neigh", "flush", "dev", "eth2"])
    wait_for(forwards, "b3 to forward")


def test_a_full_disk_does_not_stop_the_agent(cluster: ClusterLab) -> None:
    """The state file is only an optimization."""
    run = cluster.lab.root("b3") / "run"
    filler = run / "filler"
    cluster.lab.exec("b3", ["mount", "-o", "remount,size=400k", "/run"])
    try:
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        cluster.lbctl("b3", "drain")
        wait_for(lambda: "b3" not in cluster.next_hops(), "b3 to drain")
        assert cluster.status("b3")["ready"] is True
    finally:
        filler.unlink()
        cluster.lbctl("b3", "undrain")
    wait_for(lambda: "b3" in cluster.next_hops(), "b3 to be back")


def test_detach_is_refused_while_the_agent_runs_and_off_removes_the_program(cluster: ClusterLab) -> None:
    assert "another agent (pid" in cluster.lbctl("b3", "agent", "detach", code=1)
    cluster.stop_agent("b3")
    assert "xdp" in cluster.lab.exec("b3", ["ip", "link", "show", "eth1"]).stdout
    cluster.lab.spawn("b3", ["lbctl", "agent", "run", "--xdp", "off"])
    wait_for(lambda: cluster.agent_answers("b3") and cluster.status("b3")["vips"], "b3 to be plain anycast")
    assert "xdp" not in cluster.lab.exec("b3", ["ip", "link", "show", "eth1"]).stdout
    cluster.stop_agent("b3")
    assert cluster.lbctl("b3", "agent", "detach") == "nothing was attached\n"
    cluster.start_agent("b3")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
