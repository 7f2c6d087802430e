# SPDX-License-Identifier: Apache-2.0
"""A node that joins a lab's cluster with an lb.yml of its own, which the agent may replace; and a second router for it.

In the labs lb.yml is the same read-only file on every node. Here it is /run/own/lb.yml of b5, and b6 runs BIRD as a
router that b5 may have a session with. `SECOND_VIP` is a VIP that only this node may serve.
"""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from support.cluster_lab import ClusterLab
from support.waiting import Since, wait_for

from agent.change import history_file

NODE, ROUTER = "b5", "b6"
SECOND_VIP = "10.99.0.2"
SECOND_SERVICE = f"  - {{name: second, vip: {SECOND_VIP}, protocol: tcp, port: 7000, forward: l2}}\nbgp:"
SECOND_PEER = "  peers:\n    - {address: 10.0.0.15, as: 65002, hold_time_s: 3}\n"
LB_YML = "/run/own/lb.yml"
BIRD = """\
router id 10.0.0.15;
protocol device { }
protocol bgp node { local 10.0.0.15 as 65002; neighbor 10.0.0.10 as 65001; direct; passive on; hold time 3;
  ipv4 { import all; export none; }; }
"""


class ChangingNode:
    """b5 with its daemons, for as long as the context lasts."""

    def __init__(self, cluster: ClusterLab, text: str) -> None:
        self.cluster, self.text = cluster, text
        self.folder = cluster.lab.root(NODE) / "run/own"
        self.file = self.folder / "lb.yml"
        self.changed = text.replace("bgp:", SECOND_SERVICE, 1).replace("  peers:\n", SECOND_PEER, 1)

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self.file.write_text(self.text)
        conf = self.cluster.lab.root(ROUTER) / "run/bird.conf"
        conf.write_text(BIRD)
        self.cluster.lab.exec(ROUTER, ["bird", "-c", "/run/bird.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid"])
        self._spawn("bgp")
        self.start_agent()
        wait_for(lambda: NODE in self.cluster.next_hops(), "b5 to announce the VIP")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for daemon in ("agent", "speaker"):
            if self.cluster.pids(NODE, daemon):
                self.cluster.stop(NODE, daemon)
        self.cluster.lab.exec(ROUTER, ["birdc", "-s", "/run/bird.ctl", "down"])
        wait_for(lambda: NODE not in self.cluster.next_hops(), "b5 to leave")

    def _spawn(self, daemon: str) -> None:
        log = self.cluster.lab.root(NODE) / f"var/log/anylb/{daemon}.log"
        self.cluster.lab.spawn(NODE, ["lbctl", daemon, "run", "-c", LB_YML], log=log)

    def start_agent(self) -> None:
        self._spawn("agent")
        wait_for(lambda: self.cluster.service_status(NODE), "b5's agent to be ready")

    def kill_agent(self) -> None:
        self.cluster.kill(NODE, "agent", signal.SIGKILL)
        wait_for(lambda: not self.cluster.pids(NODE, "agent"), "b5's agent to be gone")

    def config(self, *arguments: str, code: int = 0) -> Any:
        """Run `lbctl config` on the node."""
        return self.cluster.lbctl(NODE, "config", *arguments, code=code)

    def problems(self) -> str:
        return "\n".join(self.cluster.status(NODE)["problems"])

    def bring_deadline_near(self, seconds: float) -> None:
        """Have the change that waits return so soon: in the file that the agent, which must not run, leaves."""
        path = self.cluster.lab.root(NODE) / "var/lib/anylb/config.json"
        state = history_file.load(path)
        assert state.pending is not None
        history_file.save(path, replace(state, pending=replace(state.pending, until=time.time() + seconds)))

    def session(self) -> tuple[str, Since]:
        """Return the state of the router's session with the node, and since when it is in it."""
        shown = self.cluster.lab.exec("router", ["birdc", "show", "protocols", NODE]).stdout.splitlines()[-1]
        _, _, _, state, since, *_ = shown.split()
        return state, Since(since)

    def has_second(self) -> bool:
        """Return whether the second router has a session with the node, and the router a route to the second VIP."""
        shown = self.cluster.lab.exec(ROUTER, ["birdc", "-s", "/run/bird.ctl", "show", "protocols", "node"]).stdout
        return "Established" in shown and self.cluster.next_hops(SECOND_VIP) == {NODE}

    def has_none(self) -> bool:
        """Return whether neither is there."""
        shown = self.cluster.lab.exec(ROUTER, ["birdc", "-s", "/run/bird.ctl", "show", "protocols", "node"]).stdout
        return "Established" not in shown and not self.cluster.next_hops(SECOND_VIP)
