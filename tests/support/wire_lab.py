# SPDX-License-Identifier: Apache-2.0
"""The lab of the wire tests: two servers behind three BIRD routers; each test configures the sessions that it needs.

    b1 eth1 10.0.0.11 2001:db8::11 fe80::11 ──┐
                                              ├── r1 (a bridge) 10.0.0.1 2001:db8::1 fe80::1, AS 65000
    b2 eth1 10.0.0.12 2001:db8::12 ───────────┤     │
    b1 eth2 10.0.1.11 ── r2 10.0.1.1, AS 65002      └── 10.0.9.1 ── 10.0.9.2 r3, AS 65003: a hop away

The speakers are `lbctl bgp run` with an lb.yml of the test; the agent is a RelayClient that sends `desired`. The tests
check the state of the routers' BIRD and kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from support.waiting import Since

from bgp import community
from bgp.community import Identity
from bgp.exabgp.config import USER
from bgp.relay.client import RelayClient
from bgp.relay.protocol import Snapshot
from bgp.route import Route
from topology.lab.lab import Lab

CLUSTER = 4242
VIP, VIP6 = "10.99.0.1/32", "2001:db8:99::1/128"
LBCTL = str(Path(sys.executable).parent / "lbctl")
LAB = """
name: wire
topology:
  defaults: {{kind: linux, image: anylb/lab, network-mode: none}}
  nodes:
    r1:
      sysctls: {{net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1}}
      binds: ["{folder}/r1.conf:/etc/bird/bird.conf"]
      exec:
        - ip link add br0 type bridge
        - ip link set eth1 master br0
        - ip link set eth2 master br0
        - ip link set br0 up
        - ip address add 10.0.0.1/24 dev br0
        - ip address add 10.0.9.1/24 dev eth3
        - ip -6 address add 2001:db8::1/64 dev br0 nodad
        - ip -6 address add fe80::1/64 dev br0 nodad
        - mkdir -p /run/bird
        - bird -c /etc/bird/bird.conf
    r2:
      binds: ["{folder}/r2.conf:/etc/bird/bird.conf"]
      exec: [ip address add 10.0.1.1/24 dev eth1, mkdir -p /run/bird, bird -c /etc/bird/bird.conf]
    r3:
      binds: ["{folder}/r3.conf:/etc/bird/bird.conf"]
      exec:
        - ip address add 10.0.9.2/24 dev eth1
        - ip route add default via 10.0.9.1
        - mkdir -p /run/bird
        - bird -c /etc/bird/bird.conf
    b1:
      exec:
        - ip address add 10.0.0.11/24 dev eth1
        - ip address add 10.0.1.11/24 dev eth2
        - ip -6 address add 2001:db8::11/64 dev eth1 nodad
        - ip -6 address flush dev eth1 scope link
        - ip -6 address flush dev eth2 scope link
        - ip -6 address add fe80::11/64 dev eth1 nodad
        - ip route add default via 10.0.0.1
        - ip -6 route add default via 2001:db8::1
    b2:
      exec: [ip address add 10.0.0.12/24 dev eth1, ip -6 address add 2001:db8::12/64 dev eth1 nodad]
  links:
    - {{endpoints: ["b1:eth1", "r1:eth1"], mtu: 1500}}
    - {{endpoints: ["b2:eth1", "r1:eth2"], mtu: 1500}}
    - {{endpoints: ["r3:eth1", "r1:eth3"], mtu: 1500}}
    - {{endpoints: ["b1:eth2", "r2:eth1"], mtu: 1500}}
"""
BIRD = """
log "/var/log/bird.log" all;
router id {id};
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ merge paths on limit 64; ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol kernel {{ merge paths on limit 64; ipv6 {{ import none; export where source = RTS_BGP; }}; }}
{protocols}
"""
SESSION = """
protocol bgp {name} {{
  local {local} as {own_as};
  neighbor {address} as {peer_as};
  {reach}; {connect};
  hold time 30; error wait time 1, 2; connect retry time 1; connect delay time 1;
  {more}
  {channels}
}}
"""
CHANNEL = "{family} {{ import all; export where source = RTS_BGP; next hop keep; }};"
LB = """
cluster: 4242
node: {{interface: eth1}}
services:
  - {{name: web, vip: 10.99.0.1, protocol: tcp, port: 80, announce: {{{announce}}}}}
  - {{name: six, vip: "2001:db8:99::1", protocol: tcp, port: 80}}
bgp:
  local_as: 65001
  identity_prefix: 10.254.0.0/16
  {allow}
  peers:
{peers}
members: {{allow: [10.0.0.0/24, "2001:db8::/64"], key: none}}
"""


def session(
    name: str,
    address: str,
    *,
    local: str = "10.0.0.1",
    own_as: int = 65000,
    peer_as: int = 65001,
    families: Iterable[str] = ("ipv4",),
    reach: str = "direct",
    connect: str = "passive on",
    more: str = "",
) -> str:
    """Return a BGP session in BIRD's configuration language."""
    channels = " ".join(CHANNEL.format(family=family) for family in families)
    return SESSION.format(
        name=name,
        address=address,
        local=local,
        own_as=own_as,
        peer_as=peer_as,
        reach=reach,
        connect=connect,
        more=more,
        channels=channels,
    )


PLAIN = session("b1", "10.0.0.11") + session("b2", "10.0.0.12")
TO_R1 = "{address: 10.0.0.1, as: 65000, hold_time_s: 3}"
LASTING_TO_R1 = TO_R1.replace("hold_time_s: 3", "hold_time_s: 30")
"""For tests that a session ended by its hold timer would mislead: on a busy machine 3 s may pass without a message."""


class WireNode:
    """One server: its lb.yml, its speaker, and an agent that sends `desired` while `agent_active`."""

    def __init__(self, lab: Lab, name: str, folder: Path) -> None:
        self.lab, self.name, self.log = lab, name, folder / f"{name}.log"
        self.address = f"10.0.0.{10 + int(name[1])}"
        self.address6 = f"2001:db8::{10 + int(name[1])}"
        self.snapshots: list[Snapshot] = []
        self.desired: list[Route] = self.default_routes
        self.agent_active = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.speaker: subprocess.Popen[bytes] | None = None

    @property
    def identity(self) -> Route:
        """Its identity's route."""
        identity = Identity(CLUSTER, IPv4Address(self.address), start=7, announces=True)
        return Route.of(f"10.254{self.address[4:]}/32", self.address, community.encode(identity), next_hop_self=True)

    @property
    def default_routes(self) -> list[Route]:
        """Both VIPs and the identity."""
        vips = ((VIP, self.address), (VIP6, self.address6))
        return [self.identity, *(Route.of(vip, address, next_hop_self=True) for vip, address in vips)]

    def configure(self, *peers: str, allow: str = "", announce: str = "") -> None:
        """Write lb.yml."""
        listed = "".join(f"    - {peer}\n" for peer in peers)
        text = LB.format(peers=listed, allow=f"allow: {allow}" if allow else "", announce=announce)
        folder = self.lab.root(self.name) / "etc/anylb"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lb.yml").write_text(text)

    def write_password(self, name: str, content: str, mode: int = 0o600) -> None:
        """Write a password file."""
        path = self.lab.root(self.name) / "etc/anylb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        path.chmod(mode)

    def start(self, *peers: str, allow: str = "", announce: str = "") -> None:
        """Configure, start the speaker and the agent."""
        self.configure(*peers, allow=allow, announce=announce)
        self.start_speaker()
        self._stop.clear()
        self.agent_active, self.desired = True, self.default_routes
        self._thread = threading.Thread(target=lambda: asyncio.run(self._agent()))
        self._thread.start()

    def start_speaker(self) -> None:
        """Start `lbctl bgp run`."""
        self.speaker = self.lab.spawn(self.name, [LBCTL, "bgp", "run"], log=self.log)

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Run `lbctl bgp reload`."""
        return self.lab.exec(self.name, [LBCTL, "bgp", "reload"], check=False, timeout=60)

    def stop(self) -> None:
        """Stop agent and speaker."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.speaker is not None:
            self.speaker.kill()
            self.speaker.wait()
            self.speaker = None
        self.snapshots.clear()

    @property
    def snapshot(self) -> Snapshot:
        """The relay's last snapshot."""
        return self.snapshots[-1] if self.snapshots else Snapshot()

    def relay_pid(self) -> int:
        """Return the relay's process id, on the host."""
        assert self.speaker is not None
        children = Path(f"/proc/{self.speaker.pid}/task/{self.speaker.pid}/children").read_text().split()
        return next(pid for pid in map(int, children) if b"relay.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def kernel_routes(self) -> str:
        """Return every route in this node's kernel, as text."""
        shown = [
            self.lab.exec(self.name, ["ip", f"-{family}", "route", "show", "table", "all"]).stdout for family in "46"
        ]
        return re.sub(r" (expires|error) \S+", "", "\n".join(shown).replace("-", ""))

    async def _agent(self) -> None:
        path = self.lab.root(self.name) / "run/anylb-bgp/relay.sock"
        client = RelayClient(path, {pwd.getpwnam(USER).pw_uid}, self.snapshots.append)
        task = asyncio.create_task(client.run())
        while not self._stop.is_set():
            if self.agent_active:
                client.send_desired(self.desired, [self.identity])
            await asyncio.sleep(0.05)
        task.cancel()


class WireLab:
    """The lab, its nodes and its routers."""

    IDS = {"r1": "10.0.0.1", "r2": "10.0.1.1", "r3": "10.0.9.2"}  # noqa: RUF012

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.b1, self.b2 = WireNode(lab, "b1", folder), WireNode(lab, "b2", folder)

    @classmethod
    @contextlib.contextmanager
    def up(cls, folder: Path, name: str) -> Iterator[WireLab]:
        """Bring the lab up, and everything down at the end."""
        file = folder / "wire.clab.yml"
        file.write_text(LAB.format(folder=folder))
        for router, number in cls.IDS.items():
            (folder / f"{router}.conf").write_text(BIRD.format(id=number, protocols=""))
        with Lab.up(file, name=name, keep=False) as lab:
            wire = cls(lab, folder)
            try:
                yield wire
            finally:
                wire.stop_nodes()

    def stop_nodes(self) -> None:
        """Stop agents and speakers, and so all sessions."""
        for node in (self.b1, self.b2):
            node.stop()

    def configure(self, router: str, protocols: str) -> None:
        """Replace the sessions of a router."""
        (self.folder / f"{router}.conf").write_text(BIRD.format(id=self.IDS[router], protocols=protocols))
        answer = self.birdc(router, "configure")
        assert "Reconfigur" in answer, answer

    def birdc(self, router: str, *command: str) -> str:
        """Run a command of BIRD and return its output."""
        return self.lab.exec(router, ["birdc", *command]).stdout

    def established(self, router: str, protocol: str) -> bool:
        """Return whether a session is up at the router."""
        return protocol in self.all_established(router)

    def all_established(self, router: str) -> set[str]:
        """Return the sessions that are up at the router."""
        return set(re.findall(r"^(\S+) .*Established", self.birdc(router, "show protocols"), re.MULTILINE))

    def session_since(self, router: str, protocol: str) -> Since:
        """Return when a session came up, by BIRD: the value changes with each session."""
        shown = self.birdc(router, "show protocols", protocol)
        found = re.search(rf"^{protocol}\s+BGP\s+\S+\s+up\s+(\S+)\s+Established", shown, re.MULTILINE)
        assert found, shown
        return Since(found[1])

    def next_hops(self, router: str, prefix: str) -> set[str]:
        """Return the next hops of a prefix in the router's kernel."""
        family = "-6" if ":" in prefix else "-4"
        shown = self.lab.exec(router, ["ip", f"-{family}", "route", "show", prefix.removesuffix("/32")]).stdout
        return set(re.findall(r"via (?:inet6 )?([0-9a-f.:]+)", shown))

    def received(self, router: str, protocol: str) -> set[str]:
        """Return the prefixes that the router received in a session."""
        return set(re.findall(r"^(\S+/\d+)", self.birdc(router, "show", "route", "protocol", protocol), re.MULTILINE))

    def attributes(self, router: str, prefix: str) -> str:
        """Return a route with all its attributes, as BIRD shows it."""
        return self.lab.exec(router, ["birdc", "show", "route", "all", "for", prefix], check=False).stdout
