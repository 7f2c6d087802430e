# SPDX-License-Identifier: Apache-2.0
"""The agent and lbctl in a real cluster: segment.clab.yml, four nodes, ExaBGP, BIRD, XDP, TCP.

    client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                         └── b5, echo server only

The demo covers the failures (tests/topology/demo); this covers the commands of an operator.
"""

import contextlib
import http.client
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.cluster_lab import FOUR, ClusterLab, cluster_lab, server_of
from support.waiting import wait_for

from topology.demo.cluster import VIP
from topology.lab.netns import inside_net

pytestmark = pytest.mark.lab
MEMORY_LIMIT_KB = 90 * 1024
CONNECTIONS = 2000


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("agent-test") as made:
        wait_for(lambda: made.next_hops() == set(FOUR), "four next hops")
        wait_for(made.tables_agree, "equal tables")
        yield made


def test_status_shows_the_whole_node(cluster: ClusterLab) -> None:
    status = cluster.lbctl("b1", "status", "-o", "json")
    assert status["ready"] is True
    assert status["xdp"]["mode"] == "native"
    assert status["xdp"]["attached"] is True
    assert status["vips"] == [{"vip": VIP, "wanted": True, "announced": True, "why": "healthy"}]
    assert {m["address"]: m["state"] for m in status["members"]} == {cluster.addresses[node]: "up" for node in FOUR}
    assert all(member["same_epoch"] for member in status["members"])
    text = cluster.lbctl("b1", "status")
    for word in ("10.0.0.11 (up)", "XDP native on eth1", "10.0.0.1 up", "healthy", status["services"][0]["digest"]):
        assert word in text


def test_explain_names_the_server_that_answers(cluster: ClusterLab) -> None:
    for number in range(12):
        source, port = f"10.1.1.{number + 1}", 20_000 + 37 * number
        answer = cluster.lbctl("b2", "explain", f"tcp,{source}:{port},{VIP}:7000", "-o", "json")
        assert len(answer["chain"]) == 4
        owner = next(name for name, address in cluster.addresses.items() if address == answer["chain"][0])
        assert cluster.server_at((source, port)) == owner
        for node in answer["nodes"]:
            forwards = node["syn"].startswith(f"forward to {answer['chain'][0]}")
            assert forwards != (node["node"] == answer["chain"][0])


def test_explain_live_ends_where_the_connection_is(cluster: ClusterLab) -> None:
    """From each node, a packet of the connection ends at its server, whatever lies between."""
    with cluster.connect() as connection:
        source, port = connection.getsockname()
        server = cluster.addresses[server_of(connection)]
        flow = f"tcp,{source}:{port},{VIP}:7000"
        for ingress in FOUR:
            steps = cluster.lbctl(ingress, "explain", flow, "--live", "-o", "json")["walks"][0]["steps"]
            assert steps[0]["node"] == cluster.addresses[ingress]
            last = steps[-1]
            assert (last["node"], last["event"], last["socket"]) == (server, "deliver_socket", "connection")
            assert last["why"] == "its connection is here"
            at = cluster.addresses[ingress]
            same = cluster.lbctl("b1", "explain", flow, "--live", "--at", at, "-o", "json")["walks"][0]["steps"]
            assert [(one["node"], one["event"]) for one in same] == [(one["node"], one["event"]) for one in steps]
        assert "deliver_socket: its connection is here" in cluster.lbctl("b1", "explain", flow, "--live")


def test_explain_live_of_a_flow_of_nobody_ends_at_the_end_of_its_chain(cluster: ClusterLab) -> None:
    flow = f"tcp,10.1.1.1:1,{VIP}:7000"
    chain = cluster.lbctl("b1", "explain", flow, "-o", "json")["chain"]
    later, syn = cluster.lbctl("b1", "explain", flow, "--live", "--at", chain[0], "-o", "json")["walks"]
    assert {step["node"] for step in later["steps"]} == set(chain)
    assert later["steps"][-1]["node"] == chain[-1]
    assert {step["socket"] for step in later["steps"]} == {"listener"}
    last = later["steps"][-1]
    assert last["event"] == ("drop_grace" if last["grace"] else "deliver_chain_end")
    assert [(step["node"], step["event"]) for step in syn["steps"]] == [(chain[0], "deliver_owner")]


def test_cluster_shows_all_members_from_one_node(cluster: ClusterLab) -> None:
    """Packets from the router are counted where they arrive, and b2, asked by b1, says what b2 says itself."""

    def routed() -> dict[str, int]:
        members = cluster.request("b1", "GET", "/cluster")["members"]
        assert [one["answers"] and one["overview"]["same_tables"] for one in members] == [True] * 4
        return {one["address"]: one["overview"]["load"]["from_routers"] for one in members}

    before = routed()
    for connection in cluster.connect_many(40):
        connection.close()

    def counted() -> bool:
        after = routed()
        return sum(after.values()) - sum(before.values()) >= 40 * 3 and all(after[at] > before[at] for at in before)

    wait_for(counted, "all four nodes to count the packets that they got from the router")
    itself = next(one for one in cluster.status("b2")["services"] if one["name"] == "echo")["counters"]["rx"]
    assert routed()[cluster.addresses["b2"]] >= itself > 0
    text = cluster.lbctl("b3", "cluster")
    assert "4 members, 4 up, 4 answer" in text
    assert "all that answer have the same tables" in text


READ_PAGE = """
import json, urllib.request
for name in ("cluster", "events"):
    with urllib.request.urlopen(f"http://127.0.0.1:9742/{name}.json", timeout=10) as response:
        print(json.dumps(json.load(response)))
"""


def test_the_page_has_all_members_and_what_happened_before_the_agent_began(cluster: ClusterLab) -> None:
    marked = {"time": time.time() - 86_400, "level": "warning", "source": "x", "text": "a day ago"}
    with cluster.lab.root("b3").joinpath("var/lib/anylb/events.jsonl.1").open("w") as file:
        file.write(json.dumps(marked) + "\n")
    members, events = map(json.loads, cluster.lab.exec("b3", ["python", "-c", READ_PAGE]).stdout.splitlines())
    assert [one["answers"] for one in members["members"]] == [True] * 4
    texts = [one["text"] for one in events["events"]]
    assert any(text.startswith("XDP attached") for text in texts)
    assert texts[-1] == "a day ago"


def test_cluster_names_a_node_whose_agent_does_not_answer(cluster: ClusterLab) -> None:
    cluster.kill("b4", "agent", signal.SIGSTOP)
    try:
        text = cluster.lbctl("b1", "cluster")
    finally:
        cluster.kill("b4", "agent", signal.SIGCONT)
    assert "4 members, 4 up, 3 answer" in text
    address = cluster.addresses["b4"]
    assert f"{address}: does not answer within 0.75 s: see `systemctl status lb-agent` there" in text
    wait_for(lambda: "4 answer" in cluster.lbctl("b1", "cluster"), "b4's agent to answer again")


def test_explain_live_names_a_node_whose_agent_does_not_answer(cluster: ClusterLab) -> None:
    flow = f"tcp,10.1.1.1:1,{VIP}:7000"
    owner, ingress, *_ = cluster.lbctl("b1", "explain", flow, "-o", "json")["chain"]
    cluster.kill(cluster.names[owner], "agent", signal.SIGSTOP)
    try:
        text = cluster.lbctl(cluster.names[ingress], "explain", flow, "--live")
    finally:
        cluster.kill(cluster.names[owner], "agent", signal.SIGCONT)
    assert f"  {owner} (hop 1 from {ingress}): does not answer within 1 s" in text


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
def test_explain_refuses_a_flow_that_no_service_takes(cluster: ClusterLab, flow: str, message: str) -> None:
    output = cluster.lbctl("b1", "explain", flow, code=1)
    assert message in output
    assert len(output.splitlines()) == 1


def test_trace_shows_a_connection_and_what_became_of_it(cluster: ClusterLab) -> None:
    """The owner delivers its SYN, and only what the filter selects is shown; then sampling is off again."""
    source, port = "10.1.1.77", 33_333
    answer = cluster.lbctl("b1", "explain", f"tcp,{source}:{port},{VIP}:7000", "-o", "json")
    owner = cluster.names[answer["chain"][0]]
    log = cluster.lab.root(owner) / "tmp/trace.log"
    command = ["lbctl", "trace", f"tcp port 7000 and src port {port}", "--client", f"{source}/32", "--count", "2"]
    tracing = cluster.lab.spawn(owner, command, log=log)
    try:
        wait_for(lambda: "tracing" in log.read_text(), "the trace to run")
        second = cluster.lab.exec(owner, ["lbctl", "trace", "--event", "drop_land"], check=False)
        assert "another trace runs on this node" in second.stderr
        assert cluster.server_at(("10.1.1.78", port)) in FOUR
        assert cluster.server_at((source, port)) == owner
        assert tracing.wait(10) == 0
    finally:
        tracing.kill()
        tracing.wait()
    _, first, second, *rest = log.read_text().splitlines()
    assert f" echo tcp {source}:{port} > {VIP}:7000 [S] (" in first.replace(" hop 1", "")
    assert ": deliver_owner, " in first or ": deliver_forwarded_syn, " in first
    assert ": deliver_socket, its connection is here" in second
    assert rest == []


def failed_for_doctor(cluster: ClusterLab, node: str) -> set[str]:
    done = cluster.lab.exec(node, ["lbctl", "doctor", "-o", "json"], check=False)
    found = {one["subject"] for one in json.loads(done.stdout)["findings"] if one["state"] == "failed"}
    assert done.returncode == (1 if found else 0)
    return found


def test_doctor_names_a_server_that_has_ended(cluster: ClusterLab) -> None:
    """Of a node that is well nothing failed; a server that ended is named until it is back."""
    assert failed_for_doctor(cluster, "b3") == set()
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
    wait_for(lambda: cluster.next_hops() == set(FOUR), "b2 to be back")


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
    events = cluster.lbctl("b2", "events", "--since", "10m")
    drained = events.index(f"{VIP}: not announcing", events.index("requested: /drain"))
    assert drained < events.index("requested: /undrain"), "the cause, what followed, and its end"
    assert f"member {cluster.addresses['b2']}: draining" in cluster.lbctl("b1", "events", "--since", "10m")


def test_a_killed_agent_leaves_route_and_data_path_and_the_next_one_changes_nothing(cluster: ClusterLab) -> None:
    wait_for(cluster.tables_agree, "equal tables")
    before = cluster.lbctl("b4", "status", "-o", "json")
    cluster.stop_agent("b4", signal.SIGKILL)
    assert "xdp" in cluster.lab.exec("b4", ["ip", "link", "show", "eth1"]).stdout
    assert {cluster.server_at((f"10.1.1.{number}", 31_000 + number)) for number in range(1, 60)} == set(FOUR)
    cluster.start_agent("b4")
    after = cluster.lbctl("b4", "status", "-o", "json")
    assert after["services"][0]["digest"] == before["services"][0]["digest"]
    assert after["services"][0]["counters"]["rx"] >= before["services"][0]["counters"]["rx"]
    assert "b4" in cluster.next_hops()


def test_sigterm_withdraws_first_and_leaves_the_data_path(cluster: ClusterLab) -> None:
    cluster.stop_agent("b4")
    assert "b4" not in cluster.next_hops()
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
    assert (cluster.lab.root("b1") / "run/anylb/agent.sock").stat().st_mode & 0o777 == 0o600


def test_check_is_ok_and_names_a_hung_agent_within_two_seconds(cluster: ClusterLab) -> None:
    cluster.lbctl("b1", "status", "--wait", "healthy", "--timeout", "60s")
    assert cluster.lbctl("b1", "check").startswith("OK: node 10.0.0.11 is up; 1 of 1 services healthy, 4 of 4 members")
    cluster.kill("b1", "agent", signal.SIGSTOP)
    try:
        began = time.monotonic()
        out = cluster.lbctl("b1", "check", code=2)
        assert time.monotonic() - began < 2
        assert "does not answer" in out
    finally:
        cluster.kill("b1", "agent", signal.SIGCONT)
    cluster.lbctl("b1", "status", "--wait", "ready", "--timeout", "60s")


def test_table_simulate_is_what_the_others_do_then(cluster: ClusterLab) -> None:
    removed = cluster.addresses["b3"]
    shown = cluster.lbctl("b1", "table", "simulate", "--remove", removed, "-o", "json")["services"][0]
    assert shown["digest"] == cluster.status("b1")["services"][0]["digest"], "the table that is in use"
    rows = {one["address"]: one["rows"] for one in shown["members"]}
    assert sum(rows.values()) == shown["rows"]
    assert shown["moved"] == rows[removed], "the rows of the others stay"
    assert "rows move; connections of this node at risk: " in cluster.lbctl(
        "b1", "table", "simulate", "--remove", removed
    )
    assert "is no member; members are" in cluster.lbctl("b1", "table", "simulate", "--remove", "10.0.0.99", code=1)
    assert removed in cluster.lbctl("b1", "table", "show", "--service", "echo")


def test_a_scrape_and_the_status_agree(cluster: ClusterLab) -> None:
    def get(path: str) -> tuple[int, str]:
        with inside_net(cluster.lab.nodes["b1"].pid):
            connection = http.client.HTTPConnection("127.0.0.1", 9742, timeout=10)
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
    cluster.lbctl("b2", "status", "--wait", "--timeout", "60s")


def test_a_removed_vip_and_a_changed_setting_are_restored_at_once(cluster: ClusterLab) -> None:
    """By the kernel's notices; the agent looks only every 5 s by itself."""
    settings = ["net.ipv4.conf.eth1.arp_ignore", "net.ipv4.conf.eth1.rp_filter"]
    for _ in range(3):
        cluster.lab.exec("b3", ["ip", "address", "del", f"{VIP}/32", "dev", "lo"])
        cluster.lab.exec("b3", ["sysctl", "-w", f"{settings[0]}=0", f"{settings[1]}=1"])
        wait_for(lambda: VIP in cluster.lab.exec("b3", ["ip", "address", "show", "lo"]).stdout, "the VIP on lo", 2)
        wait_for(lambda: cluster.lab.exec("b3", ["sysctl", "-n", *settings]).stdout == "1\n2\n", "the settings", 2)


SWAP_TWO_PLACES = """
from pathlib import Path
from agent.paths import Paths
from bpf.maps.maps import Maps
(pins,) = Paths().pins.glob('maps_*')
maps = Maps.open(pins, 65536)
(entry,), bank = maps.services.read().values(), maps.conf.read().bank
rows = maps.tables.rows(entry.slot, bank).copy()
rows[7, [0, 1]] = rows[7, [1, 0]]
maps.tables.swap(entry.slot, rows, maps.tables.grace(entry.slot, bank), bank)
"""


def test_table_diff_finds_a_row_that_the_agent_did_not_write(cluster: ClusterLab) -> None:
    assert "all 65,536 rows in the kernel are what the members make" in cluster.lbctl("b1", "table", "diff")
    cluster.lab.exec("b1", ["python", "-c", SWAP_TWO_PLACES])
    try:
        found = cluster.lbctl("b1", "table", "diff", "-o", "json", code=1)["services"][0]
        text = cluster.lbctl("b1", "table", "diff", "--service", "echo", code=1)
    finally:
        cluster.lab.exec("b1", ["python", "-c", SWAP_TWO_PLACES])
    assert (found["differing"], found["owners_differing"]) == (1, 1)
    (row,) = found["shown"]
    assert (row["row"], row["kernel"][:2]) == (7, [row["computed"][1], row["computed"][0]])
    assert "1 of 65,536 rows differ, 1 of them in their owner" in text
    assert " → ".join(row["kernel"]) in text
    assert cluster.lbctl("b1", "table", "diff", "-o", "json")["equal"]


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
    cluster.lab.exec("b3", ["mount", "-o", "remount,size=200k", "/run"])
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


NOTICED_S = 10.0
"""It takes 3 s at most on a machine at rest."""
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


def failing(cluster: ClusterLab, count: int) -> int:
    """Return how many of so many new connections fail."""
    failed = 0
    for _ in range(count):
        try:
            cluster.connect(timeout_s=0.5).close()
        except OSError:
            failed += 1
    return failed


@pytest.mark.parametrize("lost", LOST_PATHS)
def test_node_whose_path_to_clients_is_lost_takes_no_connections(cluster: ClusterLab, lost: str) -> None:
    command, cause = LOST_PATHS[lost]
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "b3 to be back")
    cluster.lab.exec("b3", command)
    try:
        wait_for(lambda: cause in path_problem(cluster, "b3"), "the problem", NOTICED_S)
        assert f"WARNING: {cause}" in cluster.lbctl("b3", "announce", "check", code=1)
        wait_for(lambda: "b3" not in cluster.next_hops(), "b3 to leave the next hops", NOTICED_S)
        wait_for(lambda: cluster.tables_agree(set(FOUR) - {"b3"}, set(FOUR) - {"b3"}), "b3 to take no connections")
        assert failing(cluster, 40) == 0
    finally:
        cluster.lab.exec("b3", MEND)
    wait_for(lambda: not path_problem(cluster, "b3"), "the problem's end", NOTICED_S)
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "b3 to be back")


def test_control_a_lost_route_that_no_agent_notices_loses_connections(cluster: ClusterLab) -> None:
    cluster.kill("b3", "agent", signal.SIGSTOP)
    try:
        cluster.lab.exec("b3", LOST_PATHS["route"][0])
        assert failing(cluster, 40) > 0  # b3 owns a quarter of the rows
    finally:
        cluster.lab.exec("b3", ROUTE)
        cluster.kill("b3", "agent", signal.SIGCONT)


def test_vip_stays_announced_where_all_have_lost_their_path(cluster: ClusterLab) -> None:
    for node in FOUR:
        cluster.lab.exec(node, LOST_PATHS["route"][0])
    try:
        for node in FOUR:
            wait_for(lambda node=node: path_problem(cluster, node), f"{node}'s problem", NOTICED_S)
        wait_for(lambda: all(vip["wanted"] for node in FOUR for vip in cluster.status(node)["vips"]), "all to announce")
        assert cluster.status("b3")["vips"][0]["why"] == "no member is healthy: failing open"
    finally:
        for node in FOUR:
            cluster.lab.exec(node, ROUTE)
    wait_for(lambda: cluster.next_hops() == set(FOUR) and cluster.tables_agree(), "all to be back")


def test_detach_is_refused_while_the_agent_runs_and_off_removes_the_program(cluster: ClusterLab) -> None:
    assert "another agent (pid" in cluster.lbctl("b3", "agent", "detach", code=1)
    cluster.stop_agent("b3")
    assert "xdp" in cluster.lab.exec("b3", ["ip", "link", "show", "eth1"]).stdout
    cluster.lab.spawn("b3", ["lbctl", "agent", "run", "--xdp", "off"])
    wait_for(lambda: cluster.agent_answers("b3") and cluster.status("b3")["vips"], "b3 to be plain anycast")
    assert "xdp" not in cluster.lab.exec("b3", ["ip", "link", "show", "eth1"]).stdout
    cluster.stop_agent("b3")
    assert cluster.lbctl("b3", "agent", "detach") == "nothing was attached\n"


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
