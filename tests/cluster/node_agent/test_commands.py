# SPDX-License-Identifier: Apache-2.0
"""What an operator asks a node: of itself, of a flow, of a connection, of all members."""

import json
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest
from support.cluster_lab import FOUR, ClusterLab, server_of
from support.waiting import wait_for

from topology.demo.cluster import VIP

pytestmark = pytest.mark.lab


def test_status_shows_the_whole_node(cluster: ClusterLab) -> None:
    announced = [{"vip": VIP, "wanted": True, "announced": True, "why": "healthy"}]
    wait_for(lambda: cluster.status("b1")["vips"] == announced, "the relay to have read back what it announces")
    status = cluster.lbctl("b1", "status", "-o", "json")
    assert status["ready"] is True
    assert status["xdp"]["mode"] == "native"
    assert status["xdp"]["attached"] is True
    assert {m["address"]: m["state"] for m in status["members"]} == {cluster.addresses[node]: "up" for node in FOUR}
    assert all(member["same_epoch"] for member in status["members"])
    text = cluster.lbctl("b1", "status")
    for word in ("10.0.0.11 (up)", "XDP native on eth1", "10.0.0.1 up", "healthy", status["services"][0]["digest"]):
        assert word in text


def test_explain_names_the_server_that_answers(cluster: ClusterLab) -> None:
    for number in range(12):
        source, port = f"10.1.1.{number + 1}", 20_000 + 37 * number
        answer = cluster.explain("b2", f"tcp,{source}:{port},{VIP}:7000")
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
            steps = cluster.walks(ingress, flow)[0]["steps"]
            assert steps[0]["node"] == cluster.addresses[ingress]
            last = steps[-1]
            assert (last["node"], last["event"], last["socket"]) == (server, "deliver_socket", "connection")
            assert last["why"] == "its connection is here"
            at = cluster.addresses[ingress]
            same = cluster.walks("b1", flow, at)[0]["steps"]
            assert [(one["node"], one["event"]) for one in same] == [(one["node"], one["event"]) for one in steps]
        text = "deliver_socket: its connection is here"
        wait_for(lambda: text in cluster.lbctl("b1", "explain", flow, "--live"), "the same as text")


def test_explain_live_of_a_flow_of_nobody_ends_at_the_end_of_its_chain(cluster: ClusterLab) -> None:
    flow = f"tcp,10.1.1.1:1,{VIP}:7000"
    chain = cluster.lbctl("b1", "explain", flow, "-o", "json")["chain"]
    later, syn = cluster.walks("b1", flow, chain[0])
    assert {step["node"] for step in later["steps"]} == set(chain)
    assert later["steps"][-1]["node"] == chain[-1]
    assert {step["socket"] for step in later["steps"]} == {"listener"}
    last = later["steps"][-1]
    assert last["event"] == ("drop_grace" if last["grace"] else "deliver_chain_end")
    assert [(step["node"], step["event"]) for step in syn["steps"]] == [(chain[0], "deliver_owner")]


def test_cluster_shows_all_members_from_one_node(cluster: ClusterLab) -> None:
    """Packets from the router are counted where they arrive, and b2, asked by b1, reports what b2 does itself."""

    members: list[dict[str, Any]] = []

    def all_answer() -> bool:  # each within 0.75 s
        members[:] = cluster.request("b1", "GET", "/cluster")["members"]
        return [one["answers"] and one["overview"]["same_tables"] for one in members] == [True] * 4

    def routed() -> dict[str, int]:
        wait_for(all_answer, "all to answer, with the same tables")
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
    lines = ("4 members, 4 up, 4 answer", "all that answer have the same tables")
    wait_for(lambda: has_all(cluster.lbctl("b3", "cluster"), lines), "the same as text")


def has_all(text: str, parts: Sequence[str]) -> bool:
    return all(part in text for part in parts)


READ_PAGE = """
import json, urllib.request
for name in ("cluster", "events"):
    with urllib.request.urlopen(f"http://127.0.0.1:9742/{name}.json", timeout=60) as response:
        print(json.dumps(json.load(response)))
"""


def test_the_page_has_all_members_and_what_happened_before_the_agent_began(cluster: ClusterLab) -> None:
    marked = {"time": time.time() - 86_400, "level": "warning", "source": "x", "text": "a day ago"}
    with cluster.lab.root("b3").joinpath("var/lib/anylb/events.jsonl.1").open("w") as file:
        file.write(json.dumps(marked) + "\n")
    pages: list[Any] = []

    def all_answer() -> bool:
        pages[:] = map(json.loads, cluster.lab.exec("b3", ["python", "-c", READ_PAGE]).stdout.splitlines())
        return [one["answers"] for one in pages[0]["members"]] == [True] * 4

    wait_for(all_answer, "all members on the page")
    texts = [one["text"] for one in pages[1]["events"]]
    assert any(text.startswith("XDP attached") for text in texts)
    assert texts[-1] == "a day ago"


def test_cluster_names_a_node_whose_agent_does_not_answer(cluster: ClusterLab) -> None:
    address = cluster.addresses["b4"]
    line = f"{address}: does not answer within 0.75 s: see `systemctl status lb-agent` there"

    def is_named() -> bool:  # the other two may be too late as well, where all CPUs are busy
        cluster.kill("b4", "agent", signal.SIGSTOP)
        try:
            text = cluster.lbctl("b1", "cluster")
        finally:
            cluster.kill("b4", "agent", signal.SIGCONT)
        assert line in text
        return "4 members, 4 up, 3 answer" in text

    wait_for(is_named, "the two others to answer")
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
        assert tracing.wait(60) == 0
    finally:
        tracing.kill()
        tracing.wait()
    _, first, second, *rest = log.read_text().splitlines()
    assert f" echo tcp {source}:{port} > {VIP}:7000 [S] (" in first.replace(" hop 1", "")
    assert ": deliver_owner, " in first or ": deliver_forwarded_syn, " in first
    assert ": deliver_socket, its connection is here" in second
    assert rest == []
