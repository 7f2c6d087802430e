# SPDX-License-Identifier: Apache-2.0
"""From one epoch to another under traffic, node by node: another hash key, and another release's table version.

    client ── router (BIRD) ── segment ──┬── b1 … b4, restarted one after the other with the new configuration
                                         └── b5, which joins when all have switched; then b2 drains and leaves

No connection may break, old or new. The control is the same change without `table.previous`: it must break some.
Backwards, a node that comes with the old configuration takes all back: what was open before the switch lives on.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from topology.demo.agent_client import tables_agree
from topology.demo.cluster import VIP, Cluster
from topology.lab.lab import Lab
from topology.traffic.controller import TrafficController

pytestmark = [pytest.mark.lab, pytest.mark.timeout(280)]
TOPOLOGY = Path(__file__).parents[2] / "topology"
FOUR = ("b1", "b2", "b3", "b4")
CONNECTIONS, FRESH_PER_S = 400, 40.0
WAIT_S = 30.0

LATER_RELEASE = '''\
"""A release with a second way from members to rows; the real one has one so far."""
import numpy as np
from dataclasses import replace
from agent.table import epoch

epoch.TABLE_VERSIONS = (1, 2)
from agent.table import algorithm

def turned(members, rows, chain, before):
    table = algorithm.ALGORITHMS[1]["rendezvous"](members, rows, chain, None)
    return replace(table, places=np.roll(table.places, 1, axis=0), ranking=None, effective=None)

algorithm.ALGORITHMS[2] = {"rendezvous": turned, "maglev": turned}
'''


@dataclass(frozen=True)
class Change:
    """What the nodes are restarted with: the table section, and a later release or not."""

    table: str
    env: Mapping[str, str] = field(default_factory=dict)


# Chains of 2: of 4, each would name all nodes, and any table would do.
BEFORE = "table: {chain: 2}"
NEW_KEY = Change("table: {chain: 2, key_file: new.key, previous: {key_file: null}}")
NEW_RELEASE = Change("table: {chain: 2, version: 2, previous: {version: 1}}", {"PYTHONPATH": "/run/later"})
WITHOUT_PREVIOUS = Change("table: {chain: 2, key_file: new.key}")


class Stage:
    """The lab, its client, and the means to restart a node's agent with the new configuration."""

    def __init__(self, cluster: Cluster, client: TrafficController, change: Change) -> None:
        self.cluster, self.client, self._change = cluster, client, change
        for node in cluster.addresses:
            folder = cluster.lab.root(node) / "run/new"
            folder.mkdir()
            (folder / "lb.yml").write_text(f"{(TOPOLOGY / 'lb.yml').read_text()}\n{change.table}\n")
            (folder / "new.key").write_text("00112233445566778899aabbccddeeff\n")
            (folder / "new.key").chmod(0o600)
            later = cluster.lab.root(node) / "run/later"
            later.mkdir()
            (later / "sitecustomize.py").write_text(LATER_RELEASE)

    def start_new(self, node: str) -> None:
        log = self.cluster.lab.root(node) / "var/log/anylb/agent.log"
        argv = ["lbctl", "agent", "run", "--config", "/run/new/lb.yml"]
        self.cluster.lab.spawn(node, argv, log, env=self._change.env)

    def restart(self, node: str) -> None:
        """As a supervisor does it for an upgrade: the agent is gone for a moment, its routes and data path are not."""
        self.cluster.kill(node, "agent")
        self.cluster.wait(f"{node}'s agent to be gone", lambda: not self.cluster.pids(node, "agent"))
        self.start_new(node)
        self.wait(f"{node}'s agent to be ready", lambda: self.cluster.service_status(node))

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        self.cluster.wait(what, lambda: bool(condition()), WAIT_S)

    def status(self, node: str) -> Any:
        return self.cluster.request(node, "GET", "/status")

    def epochs(self, *nodes: str) -> set[int]:
        """The epochs that new flows go by on these nodes."""
        return {self.status(node)["node"]["epoch"] for node in nodes}

    def agree(self, nodes: Sequence[str], takers: Sequence[str]) -> bool:
        """Whether all these have the same tables, and know that those take new flows."""
        return tables_agree(map(self.cluster.service_status, nodes), frozenset(takers), frozenset())

    def reaches_all(self, node: str) -> bool:
        return all(member["reachable"] for member in self.status(node)["members"])

    def forwarded_again(self) -> int:
        return sum(self.cluster.counters(node)["forward_again"] for node in FOUR)

    def open(self, count: int) -> None:
        before = self.client.progress().open
        self.client.open(count)
        self.wait("connections to be open", lambda: self.client.progress().open >= before + count)
        self.settle()

    def settle(self) -> None:
        """Until every connection has answered something sent from now on, or is broken."""
        now = time.monotonic()
        self.wait("all to answer or to break", lambda: not self.client.progress(now).unsettled)

    def broken(self) -> list[str]:
        held, attempts = self.client.report()
        found = [f"{one.source} at {one.owner}: {one.reason}" for one in held if one.state == "broken"]
        return found + [f"new: {one.outcome}" for one in attempts if one.outcome not in ("", "ok")]


@contextmanager
def stage(change: Change, name: str, folder: Path) -> Iterator[Stage]:
    shutil.copytree(TOPOLOGY, folder / "lab", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    with (folder / "lab/lb.yml").open("a") as config:
        config.write(f"\n{BEFORE}\n")
    with Lab.up(folder / "lab/segment.clab.yml", f"epochs-{name}-{os.getpid()}", keep=False) as lab:
        cluster = Cluster(lab, "bird")
        control = "run/anylb-traffic.sock"
        traffic = ["python", "-m", "topology.traffic", "--vip", VIP, "--control", f"/{control}"]
        lab.spawn("client", traffic, lab.root("client") / "var/log/traffic.log")
        client = TrafficController.connect(lab.root("client") / control)
        made = Stage(cluster, client, change)
        made.wait("four that all know", lambda: made.agree(FOUR, takers=FOUR))
        # While its MAC is not known the program passes an owner over, and a connection opened then is elsewhere.
        made.wait("four that reach each other", lambda: all(map(made.reaches_all, FOUR)))
        client.begin()
        made.open(CONNECTIONS)
        client.fresh(FRESH_PER_S)
        yield made
        client.quit()


@pytest.mark.parametrize(("name", "change"), [("key", NEW_KEY), ("release", NEW_RELEASE)], ids=["key", "release"])
def test_a_switch_breaks_nothing(name: str, change: Change, tmp_path: Path) -> None:
    with stage(change, name, tmp_path) as lab:
        (old,) = lab.epochs(*FOUR)
        for node in FOUR[:-1]:
            lab.restart(node)
            lab.settle()
            assert lab.epochs(*FOUR) == {old}, "not all have the new one yet"
            assert [m["has_new_epoch"] for m in lab.status(node)["members"]].count(False) == 3 - FOUR.index(node)
        assert lab.broken() == []

        before = lab.forwarded_again()
        lab.restart(FOUR[-1])
        lab.wait("all to switch", lambda: old not in lab.epochs(*FOUR))
        (new,) = lab.epochs(*FOUR)
        lab.settle()
        assert lab.broken() == []
        assert lab.forwarded_again() > before + CONNECTIONS, "old connections are found by way of their new owners"
        explained(lab, new, old)
        lab.open(CONNECTIONS // 2)  # under the new epoch

        lab.cluster.start("b5", "speaker")
        lab.start_new("b5")
        five = (*FOUR, "b5")
        lab.wait("b5 to take its part", lambda: lab.agree(five, takers=five) and lab.epochs(*five) == {new})
        lab.settle()
        lab.cluster.request("b2", "POST", "/drain")
        lab.wait("b2 to drain", lambda: lab.agree(five, takers=[node for node in five if node != "b2"]))
        lab.settle()
        assert lab.broken() == []
        owners = {one.owner for one in lab.client.report()[0]}
        assert owners == set(FOUR), "b2 has kept what it had"


def explained(lab: Stage, new: int, old: int) -> None:
    """`lbctl explain` shows both rows; the owner under the old one of them holds the connections from before."""
    held = lab.client.report()[0]
    moved = owned = 0
    for one in held[:40]:
        answer = lab.cluster.request("b1", "GET", f"/explain?tuple=tcp,{one.source},{VIP}:7000")
        assert [epoch["epoch"] for epoch in answer["epochs"]] == [new, old]
        first, other = answer["epochs"]
        # The next place is right too: it takes what its owner could not take at that moment. Seen once, of hundreds.
        assert one.owner in [lab.cluster.names[address] for address in other["chain"]]
        owned += lab.cluster.names[other["chain"][0]] == one.owner
        assert answer["tried"][0] == first["chain"][0]
        assert other["chain"][0] in answer["tried"][:2]
        assert len(answer["tried"]) <= 4
        moved += first["chain"][0] != other["chain"][0]
    assert owned >= 38
    assert moved > 10


def test_a_node_with_the_old_configuration_takes_all_back(tmp_path: Path) -> None:
    with stage(NEW_KEY, "back", tmp_path) as lab:
        (old,) = lab.epochs(*FOUR)
        for node in FOUR:
            lab.restart(node)
        lab.wait("all to switch", lambda: old not in lab.epochs(*FOUR))
        lab.settle()
        early = {one.source for one in lab.client.report()[0]}
        lab.open(CONNECTIONS // 2)  # under the new epoch
        lab.cluster.kill("b4", "agent")
        lab.wait("b4's agent to be gone", lambda: not lab.cluster.pids("b4", "agent"))
        lab.cluster.start("b4", "agent")
        lab.wait("all to be back", lambda: lab.cluster.service_status("b4") and lab.epochs(*FOUR) == {old})
        lab.settle()
        broken = [one.source for one in lab.client.report()[0] if one.state == "broken"]
        assert [source for source in broken if source in early] == []
        print(f"{len(broken)} of {CONNECTIONS // 2} that were opened under the new epoch broke")
        # b4 does not know their rows; a tenth is what the walk of all such tables says of chains of 2.
        assert len(broken) < CONNECTIONS / 2 / 4


def test_the_control_without_the_previous_epoch(tmp_path: Path) -> None:
    with stage(WITHOUT_PREVIOUS, "control", tmp_path) as lab:
        (old,) = lab.epochs(*FOUR)
        for node in FOUR:
            lab.restart(node)
        lab.wait("all to be at the new one", lambda: old not in lab.epochs(*FOUR))
        lab.settle()
        broken = [one for one in lab.client.report()[0] if one.state == "broken"]
        assert len(broken) > CONNECTIONS / 10
