# SPDX-License-Identifier: Apache-2.0
"""Four nodes around one router of any kind: the lab of the interop matrix, its router and its nodes.

    b1 10.0.0.11  fd00::11 ──┐
    b2 10.0.0.12  fd00::12 ──┤ router 10.0.0.1 fd00::1, AS 65000
    b3 10.0.0.13  fd00::13 ──┤ (the bridge is inside it)
    b4 10.0.0.14  fd00::14 ──┘

Each node runs ExaBGP, relay, agent and an echo server, without a data path: these tests are about BGP, not packets.
`lbctl announce config` prints the router's configuration. Next hops come from the kernel's routes with BIRD and FRR,
from the RIB with GoBGP and OpenBGPD: on Linux neither writes into the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from agent.cli.main import main
from topology.demo.cluster import Cluster
from topology.demo.router_watch import NextHopHistory, NextHops, RouterWatch
from topology.errors import LabError
from topology.lab.lab import Lab

ROUTER_AS = 65000
NODES = ("b1", "b2", "b3", "b4")
VIP, VIP6 = "10.99.0.1", "fd99::1"
POLL_S = 0.02
POLL_SHARE = 0.25
"""Of the time a poll of the RIB runs, at most: GoBGP's command takes 50 ms of a CPU, which all that starts needs."""
SECRET = "a-word-of-the-lab"  # noqa: S105 - no secret to anyone
GUARDED = ", password_file: secret, ttl_security: true"
SIGNED = ", password_file: secret, passive: true"  # OpenBGPD 7.7 on Linux accepts no signed connection, but opens one

LAB = """
name: interop
topology:
  defaults: {kind: linux, image: anylb/lab, network-mode: none}
  groups:
    server:
      binds: ["secret:/etc/anylb/secret:ro"]
      exec:
        - sh -c "ip address add 10.0.0.$$NUMBER/24 dev eth1"
        - sh -c "ip -6 address add fd00::$$NUMBER/64 dev eth1 nodad"
        - sh -c "ip route add default via 10.0.0.1 && ip -6 route add default via fd00::1"
        - mkdir -p /var/log/anylb
        - sh -c "python -m topology.traffic.server > /var/log/anylb/server.log 2>&1 &"
        - sh -c "python -m topology.traffic.server --address ::0 --port 7001 > /var/log/anylb/server6.log 2>&1 &"
  nodes:
    router:
      binds: [".:/etc/interop:ro"]
      exec:
        - ip link add br0 type bridge
        - sh -c "for i in 1 2 3 4; do ip link set eth$$i master br0 || exit 1; done"
        - ip link set br0 up
        - ip address add 10.0.0.1/24 dev br0
        - ip -6 address add fd00::1/64 dev br0 nodad
        - install -d -o frr -g frr /run/frr /var/log/frr /var/tmp/frr
        - mkdir -p /run/bird /run/openbgpd
    b1: {group: server, env: {NUMBER: 11, ADDRESS: 10.0.0.11}, binds: ["b1.yml:/etc/anylb/lb.yml:ro"]}
    b2: {group: server, env: {NUMBER: 12, ADDRESS: 10.0.0.12}, binds: ["b2.yml:/etc/anylb/lb.yml:ro"]}
    b3: {group: server, env: {NUMBER: 13, ADDRESS: 10.0.0.13}, binds: ["b3.yml:/etc/anylb/lb.yml:ro"]}
    b4: {group: server, env: {NUMBER: 14, ADDRESS: 10.0.0.14}, binds: ["b4.yml:/etc/anylb/lb.yml:ro"]}
  links:
    - {endpoints: ["b1:eth1", "router:eth1"], mtu: 1500}
    - {endpoints: ["b2:eth1", "router:eth2"], mtu: 1500}
    - {endpoints: ["b3:eth1", "router:eth3"], mtu: 1500}
    - {endpoints: ["b4:eth1", "router:eth4"], mtu: 1500}
"""

NODE = """
cluster: 4244
node: {{interface: eth1, announce: {announce}}}
services:
  - name: echo
    vip: 10.99.0.1
    protocol: tcp
    port: 7000
    health: &often {{type: tcp, interval_s: 0.2, timeout_s: 0.2, rise: 1, fall: 20}}  # no server ends here
  - {{name: echo6, vip: "fd99::1", protocol: tcp, port: 7001, health: *often}}
bgp:
  local_as: {asn}
  identity_prefix: 10.254.0.0/16
  peers:
    - {{address: 10.0.0.1, as: 65000, hold_time_s: 3{options}}}
    - {{address: "fd00::1", as: 65000, hold_time_s: 3{options}}}
members: {{allow: [10.0.0.0/24, "fd00::/64"], key: none}}
xdp: {{mode: "off"}}
"""


@dataclass(frozen=True, slots=True)
class RouterKind:
    """How a kind of router starts (`foreground`: a command that does not end), and how it reports its state."""

    start: tuple[str, ...]
    sessions: Callable[[Lab], NextHops]
    hops: Callable[[Lab, str], NextHops] | None = None
    """The next hops of a VIP in the RIB; None: in the kernel's routes."""
    foreground: str = ""


def output(lab: Lab, *argv: str) -> str:
    """Return the output of a command in the router, which may not be ready for it yet."""
    return lab.exec("router", argv, check=False).stdout


def json_output(lab: Lab, *argv: str) -> Any:
    """Return the same as JSON; an empty mapping if it is none, or GoBGP's error that it is not ready yet."""
    with contextlib.suppress(ValueError):
        answer = json.loads(output(lab, *argv)) or {}
        return answer if "error" not in answer else {}
    return {}


def bird_sessions(lab: Lab) -> NextHops:
    pattern = r"BGP state: +Established\n +Neighbor address: (\S+)"
    return frozenset(re.findall(pattern, output(lab, "birdc", "show", "protocols", "all")))


def frr_sessions(lab: Lab) -> NextHops:
    families = json_output(lab, "vtysh", "-c", "show bgp summary json").values()
    peers = [item for family in families for item in family.get("peers", {}).items()]
    return frozenset(address for address, peer in peers if peer["state"] == "Established")


def gobgp_sessions(lab: Lab) -> NextHops:
    shown = json_output(lab, "gobgp", "neighbor", "-j")
    return frozenset(n["conf"]["neighbor_address"] for n in shown if n.get("state", {}).get("session_state") == 6)


def gobgp_hops(lab: Lab, vip: str) -> NextHops:
    family = "ipv6" if ":" in vip else "ipv4"
    paths = [p for found in json_output(lab, "gobgp", "global", "rib", vip, "-a", family, "-j").values() for p in found]
    return frozenset(a["nexthop"] for p in paths for a in p["attrs"] if a["type"] in (3, 14))  # (MP_REACH_)NEXT_HOP


def openbgpd_sessions(lab: Lab) -> NextHops:
    shown = json_output(lab, "bgpctl", "-j", "show", "neighbor").get("neighbors", [])
    return frozenset(n["remote_addr"] for n in shown if n["state"] == "Established")


def openbgpd_hops(lab: Lab, vip: str) -> NextHops:
    shown = json_output(lab, "bgpctl", "-j", "show", "rib", vip).get("rib", [])
    return frozenset(path["exit_nexthop"] for path in shown if path.get("best") or path.get("ecmp"))


def kernel_hops(lab: Lab, vip: str) -> NextHops:
    shown = json_output(lab, "ip", "-j", *(["-6"] if ":" in vip else []), "route", "show", vip)
    return frozenset(leg["gateway"] for route in shown for leg in route.get("nexthops", [route]))


KINDS: Mapping[str, RouterKind] = {
    "bird": RouterKind(("bird -c /etc/interop/bird.conf",), bird_sessions),
    "frr": RouterKind(
        (
            "/usr/lib/frr/zebra -d -A 127.0.0.1",
            "test ! -x /usr/lib/frr/mgmtd || /usr/lib/frr/mgmtd -d -A 127.0.0.1",
            "/usr/lib/frr/bgpd -d -A 127.0.0.1",
            "vtysh -f /etc/interop/frr.conf",
        ),
        frr_sessions,
    ),
    "gobgp": RouterKind((), gobgp_sessions, gobgp_hops, "gobgpd -p -f /etc/interop/gobgp.conf"),
    "openbgpd": RouterKind(("bgpd -f /etc/interop/openbgpd.conf",), openbgpd_sessions, openbgpd_hops),
}


class RibWatch:
    """The same as RouterWatch, for a router that writes nothing into the kernel: polls it until its end."""

    def __init__(self, read: Callable[[], NextHops]) -> None:
        self.history = NextHopHistory()
        self._read = read
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="rib-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> RibWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _follow(self) -> None:
        pause_s = POLL_S
        while not self._closing.wait(pause_s):
            began = time.monotonic()
            self.history.add(self._read(), now := time.monotonic())
            pause_s = max(POLL_S, (now - began) * (1 / POLL_SHARE - 1))


class Interop:
    """A lab that is up: its router, its nodes, and the router's next hops over time."""

    def __init__(self, lab: Lab, kind: str, history: NextHopHistory, directory: Path) -> None:
        self.cluster = Cluster(lab, kind)
        self._directory = directory
        self.history = history
        self._kind = KINDS[kind]

    def sessions(self) -> NextHops:
        """Return the nodes' addresses that the router has established sessions with."""
        return self._kind.sessions(self.cluster.lab)

    def hops(self, *nodes: str) -> NextHops:
        """Return the next hops of the IPv4 VIP when these nodes announce."""
        return frozenset(self.cluster.addresses[node] for node in nodes)

    def hops6(self, *nodes: str) -> NextHops:
        """Return those of the IPv6 VIP."""
        return frozenset(f"fd00::{10 + int(node[1:])}" for node in nodes)

    def current6(self) -> NextHops:
        """Return the router's current next hops of the IPv6 VIP."""
        return (self._kind.hops or kernel_hops)(self.cluster.lab, VIP6)

    def members(self, node: str) -> dict[str, str]:
        """Return the state of each member by name, in a node's status."""
        try:
            shown = self.cluster.request(node, "GET", "/status")["members"]
        except LabError:
            return {}  # not ready yet
        return {self.cluster.names[member["address"]]: member["state"] for member in shown}

    def announce(self, node: str, wanted: bool) -> None:
        """Make a node announce its VIP, or be a member alone, by a reload of its configuration."""
        path = self._directory / f"{node}.yml"
        old, new = f"announce: {str(not wanted).lower()}", f"announce: {str(wanted).lower()}"
        path.write_text(path.read_text().replace(old, new))  # in place: the file is mounted in the node
        self.cluster.request(node, "POST", "/reload")

    def until(self, what: str, condition: Callable[[], object], since: float) -> int:
        """Wait for a state; return the milliseconds from `since`."""
        self.cluster.wait(what, lambda: bool(condition()), 120.0)
        return round(1000 * (time.monotonic() - since))

    def until_hops(self, since: float, *nodes: str) -> int:
        """Wait until these nodes alone are next hops; return the milliseconds from `since`, by the router's events."""
        expected = self.hops(*nodes)
        self.until(f"next hops {' '.join(nodes)}", lambda: self.history.current == expected, since)
        after_ms = self.history.converged_after_ms(expected, since)
        assert after_ms is not None, f"next hops {' '.join(nodes)} did not stay"
        return after_ms


@contextlib.contextmanager
def interop(kind: str, mode: str, directory: Path) -> Iterator[Interop]:
    """Bring the lab up with a router of this kind; no node's daemons run yet.

    `mode`: eBGP with an AS for each node; iBGP, where the router reflects; guarded: eBGP with one AS for all nodes, an
    MD5 password, and GTSM but for OpenBGPD.
    """
    peers, named = ["--peer", "10.0.0.1", "--peer", "fd00::1"], []
    for number, node in enumerate(NODES, 1):
        asn = ROUTER_AS + {"eBGP": number, "iBGP": 0, "guarded": 1}[mode]
        options = (SIGNED if kind == "openbgpd" else GUARDED) if mode == "guarded" else ""
        (directory / f"{node}.yml").write_text(NODE.format(asn=asn, announce="true", options=options))
        named += ["--node", f"{node}=10.0.0.{10 + number}@{asn}", "--node", f"{node}=fd00::{10 + number}@{asn}"]
    printed = CliRunner().invoke(
        main, ["announce", "config", "--router", kind, "-c", str(directory / "b1.yml"), *peers, *named]
    )
    assert printed.exit_code == 0, printed.output
    file = directory / f"{kind}.conf"
    file.write_text(printed.output.replace("REPLACE-BY-CONTENT-OF-secret", SECRET))
    file.chmod(0o600)  # OpenBGPD requires it
    (directory / "secret").write_text(SECRET)
    (directory / "secret").chmod(0o600)
    (directory / "interop.clab.yml").write_text(LAB)
    with Lab.up(directory / "interop.clab.yml", f"interop-{kind}-{os.getpid()}", keep=False) as lab:
        router = KINDS[kind]
        for command in router.start:
            lab.exec("router", ["sh", "-c", command])
        if router.foreground:
            lab.spawn("router", router.foreground.split(), directory / "router.log")
        with contextlib.ExitStack() as stack:
            watch = (
                stack.enter_context(RibWatch(lambda: router.hops(lab, VIP)))
                if router.hops
                else stack.enter_context(RouterWatch(lab.nodes["router"].pid, VIP))
            )
            yield Interop(lab, kind, watch.history, directory)
