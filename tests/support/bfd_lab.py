# SPDX-License-Identifier: Apache-2.0
"""The lab of the BFD tests: a router, a switch and two servers, with a sniffer and CPU load.

    b1 10.0.0.11 ──┐                         b1 and the router monitor each other by BFD;
     with BFD      ├── switch ── router      b2 is the control, without BFD.
    b2 10.0.0.12 ──┘             10.0.0.1    All hold times are an hour.

A switch port in state "disabled" drops packets in both directions, and no link goes down.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import pwd
import re
import socket
import struct
import sys
import threading
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from support.waiting import Since, wait_for

from bgp.bfd.config import BfdTimers
from bgp.bfd.packet import SessionState, decode
from bgp.bfd.status import BfdStatus
from bgp.exabgp.config import USER
from bgp.relay.client import RelayClient
from bgp.relay.protocol import Peer, Snapshot
from bgp.route import Route
from bgp.router import bird, frr
from bgp.router.facts import Neighbor, Router, SessionSettings
from topology.lab.lab import Lab
from topology.lab.netns import inside_net

ETH_P_ALL, ETH_P_IP = 3, 0x0800
VIP = "10.99.0.1/32"
INTERVAL_MS, MULTIPLIER = 300, 3
HOLD_TIME_S = 3600
"""So there is no KEEPALIVE under way when packets are dropped."""
ROUTERS = {"bird": bird.render, "frr": frr.render}
START = {
    "bird": ["mkdir -p /run/bird", "bird -c /etc/bird/bird.conf"],
    "frr": [
        "install -d -o frr -g frr /run/frr /var/log/frr /var/tmp/frr",
        "/usr/lib/frr/zebra -d -A 127.0.0.1",
        "/usr/lib/frr/bfdd -d -A 127.0.0.1",
        "/usr/lib/frr/bgpd -d -A 127.0.0.1",
        "vtysh -b",
    ],
}
LAB = """
name: bfd-{router}
topology:
  defaults: {{kind: linux, image: anylb/lab, network-mode: none}}
  nodes:
    switch:
      exec:
        - ip link add br0 type bridge
        - sh -c "for i in 1 2 3; do ip link set eth$$i master br0 || exit 1; done"
        - ip link set br0 up
    router:
      binds: ["{conf}:/etc/{router}/{router}.conf:ro"]
      exec:
        - ip address add 10.0.0.1/24 dev eth1
        {start}
    b1: {{exec: [ip address add 10.0.0.11/24 dev eth1]}}
    b2: {{exec: [ip address add 10.0.0.12/24 dev eth1]}}
  links:
    - {{endpoints: ["b1:eth1", "switch:eth1"], mtu: 1500}}
    - {{endpoints: ["b2:eth1", "switch:eth2"], mtu: 1500}}
    - {{endpoints: ["router:eth1", "switch:eth3"], mtu: 1500}}
"""
SPEAK = f"""
import sys
from ipaddress import IPv4Address, IPv4Network
from bgp.bfd.config import BfdTimers
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp.reload import reload
from bgp.exabgp.speaker import run
me = IPv4Address(sys.argv[1])
bfd = BfdTimers({INTERVAL_MS}, {MULTIPLIER}) if "bfd" in sys.argv else None
peer = NeighborConfig(IPv4Address("10.0.0.1"), 65000, me, hold_time_s={HOLD_TIME_S}, bfd=bfd)
config = SpeakerConfig(65001, me, (peer,), allow=(IPv4Network("{VIP}"),))
reload(config) if "reload" in sys.argv else run(config)
"""


def router_config(router: str) -> str:
    """Return the router's configuration, as `lbctl announce config` prints it."""
    plain = SessionSettings(IPv4Address("10.0.0.1"), ("ipv4",), hold_time_s=HOLD_TIME_S)
    monitored = replace(plain, bfd=BfdTimers(INTERVAL_MS, MULTIPLIER))
    neighbors = (
        Neighbor("b1", IPv4Address("10.0.0.11"), 65001, monitored, IPv4Network("10.254.0.11/32")),
        Neighbor("b2", IPv4Address("10.0.0.12"), 65001, plain, IPv4Network("10.254.0.12/32")),
    )
    facts = Router(
        asn=65000,
        router_id=IPv4Address("10.0.0.1"),
        neighbors=neighbors,
        vips=(IPv4Network(VIP),),
        identities=IPv4Network("10.254.0.0/16"),
        log=f"/var/log/{router}.log" if router == "bird" else "/var/log/frr/frr.log",
    )
    return ROUTERS[router](facts)


class Server:
    """One server: its speaker, and an agent that desires the VIP while it runs."""

    def __init__(self, lab: Lab, name: str, logs: Path, bfd: bool) -> None:
        self.lab, self.name = lab, name
        self.address = f"10.0.0.{10 + int(name[1])}"
        self.log = logs / f"{name}.log"
        self.speaker = lab.spawn(name, self._speaker_argv("run", bfd), log=self.log)
        self.snapshots: list[Snapshot] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def reload(self, bfd: bool) -> None:
        """Reload its ExaBGP with BFD, or without."""
        self.lab.exec(self.name, self._speaker_argv("reload", bfd))

    def _speaker_argv(self, verb: str, bfd: bool) -> list[str]:
        return [sys.executable, "-c", SPEAK, self.address, verb, *(["bfd"] if bfd else [])]

    def start_agent(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._agent()))
        self._thread.start()

    def stop_agent(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def peer(self) -> Peer | None:
        """The router in the agent's last snapshot."""
        return self.snapshots[-1].peers[0] if self.snapshots and self.snapshots[-1].peers else None

    @property
    def bfd(self) -> BfdStatus | None:
        return self.peer.bfd if self.peer else None

    @property
    def all_acknowledged(self) -> bool:
        """Whether its kernel has nothing more to send, nor to send again, on any TCP connection."""
        lines = Path(f"/proc/{self.speaker.pid}/net/tcp").read_text().splitlines()[1:]
        return all(line.split()[4].startswith("00000000:") for line in lines)

    def helper(self, archive: str) -> int | None:
        """Return the process id of the helper that runs an archive."""
        children = Path(f"/proc/{self.speaker.pid}/task/{self.speaker.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):  # it ended meanwhile
                if f"/{archive}\0".encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    async def _agent(self) -> None:
        client = RelayClient(
            self.lab.root(self.name) / "run/anylb-bgp/relay.sock", {pwd.getpwnam(USER).pw_uid}, self.snapshots.append
        )
        task = asyncio.create_task(client.run())
        while not self._stop.is_set():
            client.send_desired([Route.of(VIP, self.address)], [])
            await asyncio.sleep(0.1)
        task.cancel()


class BfdLab:
    """The lab, its servers, and the state of the router's kernel and its BFD."""

    def __init__(self, lab: Lab, router: str, logs: Path) -> None:
        self.lab, self.router = lab, router
        self.b1, self.b2 = Server(lab, "b1", logs, bfd=True), Server(lab, "b2", logs, bfd=False)
        self._log = logs / "monitor"
        lab.spawn("router", ["ip", "-ts", "monitor", "route"], log=self._log)

    @staticmethod
    def file(router: str, logs: Path) -> Path:
        """Write the lab's file and the router's configuration."""
        conf, file = logs / f"{router}.conf", logs / "bfd.clab.yml"
        conf.write_text(router_config(router))
        start = "\n        ".join(f"- {command}" for command in START[router])
        file.write_text(LAB.format(router=router, conf=conf, start=start))
        return file

    def next_hops(self) -> set[str]:
        return set(re.findall(r"via ([0-9.]+)", self.lab.exec("router", ["ip", "route", "show", VIP]).stdout))

    def events(self) -> list[str]:
        """Return the changes of the VIP in the router's kernel: a line each, without those of further next hops."""
        return [line for line in self._log.read_text().splitlines() if VIP[:-3] in line]

    def alone_at(self, since: int, address: str) -> float:
        """Return when the router's kernel first had this next hop alone, after `since` events, as time.time()."""
        pattern = re.compile(rf"\[(\S+)\] {VIP[:-3]} .*via {address} ")
        wait_for(lambda: any(map(pattern.match, self.events()[since:])), "the event")
        time_of = next(found[1] for line in self.events()[since:] if (found := pattern.match(line)))
        return datetime.fromisoformat(time_of).timestamp()

    def block(self, port: int, blocked: bool = True) -> float:
        """Drop all packets at a port of the switch, or stop dropping them; return when, as time.time()."""
        state = "disabled" if blocked else "forwarding"
        command = f"date +%s.%N; bridge link set dev eth{port} state {state}"
        return float(self.lab.exec("switch", ["sh", "-c", command]).stdout)

    def router_session(self) -> tuple[str, Since | int]:
        """Return the router's state of b1's session, up or down, and a value that changes with each session."""
        if self.router == "bird":
            text = self.lab.exec("router", ["birdc", "show", "bfd", "sessions"]).stdout
            found = re.search(r"10\.0\.0\.11\s+\S+\s+(\S+)\s+(\S+)", text)
            return (found[1].lower(), Since(found[2])) if found else ("down", 0)
        peers = json.loads(self.lab.exec("router", ["vtysh", "-c", "show bfd peers counters json"]).stdout or "[]")
        state = json.loads(self.lab.exec("router", ["vtysh", "-c", "show bfd peers json"]).stdout or "[]")
        if not state:
            return "down", 0
        return state[0]["status"], peers[0]["session-down"]

    @property
    def converged(self) -> bool:
        """Whether the state is the one after the start, and nothing is under way from b1.

        Behind a segment that is lost TCP would keep the NOTIFICATION that follows (Nagle's algorithm; RFC 5681, 3.1).
        """
        return (
            self.b1.all_acknowledged
            and self.next_hops() == {"10.0.0.11", "10.0.0.12"}
            and self.b1.bfd is not None
            and (self.b1.bfd.state, self.b1.bfd.detection_ms) == ("up", INTERVAL_MS * MULTIPLIER)
            and self.router_session()[0] == "up"
            and all(server.peer and server.peer.up for server in (self.b1, self.b2))
        )


class Sniffer:
    """A capture on an interface: the kernel's timestamps of BFD packets, and NOTIFICATIONs with BFD Down."""

    def __init__(self, pid: int, interface: str) -> None:
        with inside_net(pid):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            self._socket.bind((interface, ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        self._socket.setblocking(False)
        self.times: dict[str, list[float]] = {}
        self.not_up = 0
        self.bfd_down = 0
        """How many BGP NOTIFICATIONs with Cease, "BFD Down" (RFC 9384) passed."""

    def take(self) -> None:
        """Read the packets captured since the last call."""
        while True:
            try:
                data, extra, _flags, address = self._socket.recvmsg(2048, 64)
            except BlockingIOError:
                return
            self.bfd_down += re.search(rb"\xff{16}..\x03\x06\x0a", data, re.DOTALL) is not None
            if (
                address[1] == ETH_P_IP
                and data[9] == socket.IPPROTO_UDP
                and struct.unpack_from("!H", data, 22)[0] == 3784
            ):
                seconds, nanoseconds = struct.unpack("@qq", extra[0][2])
                self.times.setdefault(socket.inet_ntoa(data[12:16]), []).append(seconds + nanoseconds / 1e9)
                packet = decode(data[28:])
                self.not_up += packet is None or packet.state is not SessionState.UP

    def has_bfd_down(self) -> bool:
        """Read on; return whether a NOTIFICATION with BFD Down has passed."""
        self.take()
        return self.bfd_down > 0

    def gaps(self, address: str) -> list[float]:
        """Return the seconds between packets of one sender, sorted."""
        times = self.times.get(address, [])
        return sorted(b - a for a, b in itertools.pairwise(times))
