# SPDX-License-Identifier: Apache-2.0
"""The lab of NAT: nodes before backends that know nothing of anylb (topology/nat.clab.yml), and its control.

The control is a VIP that the router spreads over the same nodes by plain ECMP, to a HAProxy on each, with the same
backends: what happens to its connections at a change of nodes shows that the change would break some.

Owns what the tests of NAT share: the lab, clients by TCP and UDP, frames forged on the client's link, backends that
stop and start. Does not own any judgment.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

from support.cluster_lab import FOUR, ClusterLab, copy_topology, edit
from support.packets import ethernet, mac
from support.programs import PROGRAMS
from support.sequence import RETRANSMISSIONS
from support.waiting import wait_for

from agent.cli.client import follow
from agent.cli.reload import reload
from agent.sessions.page import Names, decode
from topology.demo.cluster import AGENT_SOCKET, VIP
from topology.lab.lab import Lab
from topology.lab.netns import inside_net
from topology.traffic.controller import TrafficController

VIP6 = "fd99::1"
POOL, POOL6 = "10.255.0.0/31", "fd00:ff::/127"
#: Which the router accepts too.
NEW_POOL, NEW_POOL6 = "10.255.1.0/31", "fd00:fe::/127"
WIDE_POOL, WIDE_POOL6 = "10.255.0.0/30", "fd00:ff::/126"
#: Where the nodes' own addresses are, from which backends are checked.
NODES = ip_network("10.0.0.0/24"), ip_network("fd00::/64")
CONTROL_VIP = "10.99.0.2"
BACKENDS = {"s1": "10.9.0.11", "s2": "10.9.0.12", "s3": "10.9.0.13"}
ECHO_PORT, UDP_PORT, WEB_PORT = 7000, 7001, 80
#: Source addresses of the control's traffic and of `Sessions`, so that nothing collides with the first client's ports.
CONTROL_SOURCE, SESSION_SOURCE, SESSION_SOURCE6 = "10.1.2", "10.1.3", "fd01:0:0:1::3"
REPEAT_S = 0.5
SILENCE_S = "30"
"""After so long without an answer a client calls a connection broken: nodes take a few seconds, if they have CPUs."""
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
FORGER = mac("02:00:00:00:00:99")


class NatLab(ClusterLab):
    """The lab of NAT that is up."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, "bird")
        self._nat = True
        self.folder = folder
        self._numbers = itertools.count(1)  # no source port is used twice

    def repeat_each_second(self) -> None:
        """Have all kernels repeat each second, so that connections soon show that all is well."""
        for node in ("client", *self.addresses, *BACKENDS):
            self.lab.exec(node, ["sysctl", "-w", *RETRANSMISSIONS], check=False)

    def prepare_control(self) -> None:
        """Start HAProxy on each node, at an address that the router spreads over the nodes by ECMP alone."""
        for net in (CONTROL_SOURCE, SESSION_SOURCE):
            self.lab.exec("client", ["ip", "route", "add", "local", f"{net}.0/24", "dev", "lo"])
        for node in self.addresses:
            self.lab.exec(node, ["ip", "address", "add", f"{CONTROL_VIP}/32", "dev", "lo"])
            self.lab.exec(node, ["haproxy", "-D", "-f", "/etc/haproxy-lab.cfg"])
        self.route_control(FOUR)

    def hops(self, prefix: str) -> set[str]:
        """Return the nodes that the router's kernel routes a prefix of either family to."""
        family = "-6" if ":" in prefix else "-4"
        routes = json.loads(self.lab.exec("router", ["ip", family, "-j", "route", "show", prefix]).stdout or "[]")
        legs = [leg for route in routes for leg in route.get("nexthops", [route])]
        hosts = {address.rpartition(".")[2]: node for node, address in self.addresses.items()}
        return {hosts[re.split(r"[.:]", leg["gateway"])[-1]] for leg in legs if "gateway" in leg}

    def serves(self, nodes: Iterable[str], pools: Iterable[str] = (POOL, POOL6)) -> bool:
        """Return whether just these nodes have all routes, agree on the table of sessions, and have all backends up."""
        expected = set(nodes)
        return (
            self.tables_agree(expected, expected)
            and all(self.backends_up(node) == set(BACKENDS.values()) for node in expected)
            and all(self.hops(prefix) == expected for prefix in (VIP, VIP6, *pools))
        )

    def states(self, nodes: Iterable[str] = FOUR, **chosen: str) -> dict[str, str]:
        """Return the state of each session on these nodes, but of those that are closed, by the client's end; with
        `chosen`, of those that a request about sessions selects so.

        As `lbctl session list` reads them, without its start, which costs more than all the rest.
        """
        found = {}
        for node in nodes:
            lines = follow(self.lab.root(node) / AGENT_SOCKET, "/sessions", **chosen)
            next(lines)
            names = Names({})
            for page in itertools.takewhile(lambda page: "end" not in page, lines):
                found |= {one["client"]: one["state"] for one in decode(page, names) if one["state"] != "closed"}
        return found

    def reload(self, *nodes: str, force: bool = False) -> None:
        """Have nodes take lb.yml over, one after the other, as `lbctl reload` does."""
        for node in nodes:
            reload(self.lab.root(node) / AGENT_SOCKET, force)

    def nat_counters(self) -> dict[str, dict[str, int]]:
        """Return what each node's data path counted, by node; what it did with answers is `nat`'s until it has their
        session."""
        found = {}
        for node in FOUR:
            status = self.status(node)
            parts = [part["counters"] for part in (status["nat"], *status["services"])]
            found[node] = {name: sum(part[name] for part in parts) for name in parts[0]}
        return found

    def answers_sent_on(self) -> int:
        """Return how many answers reached a node without their session, which sent them to another one."""
        return sum(self.status(node)["nat"]["counters"]["forward_first"] for node in FOUR)

    def peers(self, backend: str) -> set[str]:
        """Return the addresses that have a connection to a backend's echo server, other than nodes that check it."""
        shown = self.lab.exec(backend, ["ss", "-Htn", "state", "established", f"sport = :{ECHO_PORT}"]).stdout
        ends = [line.split()[3].rpartition(":")[0].strip("[]") for line in shown.splitlines()]
        peers = {end.removeprefix("::ffff:") for end in ends}
        return {peer for peer in peers if not any(ip_address(peer) in network for network in NODES)}

    def route_control(self, nodes: Iterable[str]) -> None:
        """Spread the control's address over these nodes."""
        # In BIRD's order, by address: with the order the flows that move change too.
        hops = sorted(tuple(map(int, self.addresses[node].split("."))) for node in nodes)
        words = [word for hop in hops for word in ("nexthop", "via", ".".join(map(str, hop)))]
        self.lab.exec("router", ["ip", "route", "replace", f"{CONTROL_VIP}/32", *words])

    def traffic(self, name: str, vip: str, source: str) -> TrafficController:
        """Start a client program that holds TCP connections to the echo service at a VIP."""
        control = f"run/traffic-{name}.sock"
        argv = ["python", "-m", "topology.traffic", "--vip", vip, "--source", source, "--control", f"/{control}"]
        argv += ["--silence", SILENCE_S]
        self.lab.spawn("client", argv, self.lab.root("client") / f"var/log/traffic-{name}.log")
        return TrafficController.connect(self.lab.root("client") / control)

    @contextlib.contextmanager
    def backend_cut_off(self, backend: str) -> Iterator[None]:
        """Have the farm deliver nothing to a backend and nothing of it, as without power; it changes no link."""
        port = f"eth{backend[1]}"
        self.lab.exec("farm", ["ip", "link", "set", port, "nomaster"])
        try:
            yield
        finally:
            self.lab.exec("farm", ["ip", "link", "set", port, "master", "br0"])

    def forge(self, packets: Iterable[bytes]) -> int:
        """Send IPv4 packets from the client's link as they are, whoever they claim to be from; return how many."""
        router = self.lab.root("router") / "sys/class/net/eth1/address"
        target = bytes.fromhex(router.read_text().strip().replace(":", ""))
        with inside_net(self.lab.nodes["client"].pid):
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sent = 0
        with link:
            link.bind(("eth1", 0))
            for packet in packets:
                while not _sent_now(link, ethernet(packet, dst=target, src=FORGER)):
                    time.sleep(0.001)
                sent += 1
        return sent

    def sessions(self) -> Sessions:
        """Return an empty set of sessions of the client's."""
        return Sessions(self.lab.nodes["client"].pid, self._numbers)


@dataclass
class Session:
    """A socket of the client's that is connected to a VIP."""

    sock: socket.socket
    backend: str = ""
    answer: str = ""
    sent: int = 0

    @property
    def end(self) -> str:
        """The client's end, `address:port`."""
        address, port, *_ = self.sock.getsockname()
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    @property
    def sequence(self) -> int:
        """The sequence number of what a TCP client sends next."""
        for option, value in ((_TCP_REPAIR, 1), (_TCP_REPAIR_QUEUE, 2)):
            self.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        found = self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) & 0xFFFF_FFFF
        self.sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, -1)  # off, without a probe
        return found


@dataclass
class Sessions:
    """TCP connections and UDP flows of both families; each has one line in flight at most."""

    pid: int
    numbers: Iterator[int]
    held: list[Session] = field(default_factory=list)

    def open(self, kind: socket.SocketKind, vip: str, port: int, count: int) -> None:
        """Open so many more; each is answered once."""
        six = ":" in vip
        new = []
        for number in itertools.islice(self.numbers, count):
            source = f"{SESSION_SOURCE6}:{number:x}" if six else f"{SESSION_SOURCE}.{number % 250 + 1}"
            with inside_net(self.pid):
                sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
            sock.settimeout(60)
            sock.bind((source, 20_000 + number))
            sock.connect((vip, port))
            sock.setblocking(False)
            new.append(Session(sock))
        self.held += new
        self._ask(new, 60.0)
        silent = [one.end for one in new if not one.answer]
        assert not silent, f"{len(silent)} of {count} got no answer: {silent[:3]}"
        for one in new:
            one.backend = one.answer

    def backends(self) -> Counter[str]:
        """Return how many sessions each backend has."""
        return Counter(one.backend for one in self.held)

    def broken(self, timeout_s: float = 120.0, may_break: Callable[[Session], bool] = lambda _: False) -> list[Session]:
        """Return those that do not answer, or by another backend than before. All are asked; the answers of those that
        may break are not waited for, nor are they returned."""
        waited_for = [one for one in self.held if not may_break(one)]
        self._ask(self.held, timeout_s, waited_for)
        return [one for one in waited_for if one.answer != one.backend]

    def close(self) -> None:
        """Close all of them."""
        for one in self.held:
            one.sock.close()
        self.held.clear()

    def _ask(self, sessions: list[Session], timeout_s: float, waited_for: list[Session] | None = None) -> None:
        """Send a line on each and wait for the answers, of all or of some; datagrams are repeated."""
        poller = select.poll()
        by_descriptor = {one.sock.fileno(): one for one in sessions}
        for one in sessions:
            one.answer = ""
            one.sent += 1
            poller.register(one.sock.fileno(), select.POLLIN)
            _send(one)
        pending = {one.sock.fileno() for one in (sessions if waited_for is None else waited_for)}
        deadline = time.monotonic() + timeout_s
        repeat = time.monotonic() + REPEAT_S
        while pending and time.monotonic() < deadline:
            for descriptor, _ in poller.poll(50):
                if _receive(by_descriptor[descriptor]):
                    poller.unregister(descriptor)
                    pending.discard(descriptor)
            if time.monotonic() >= repeat:
                repeat += REPEAT_S
                for descriptor in pending:
                    if by_descriptor[descriptor].sock.type == socket.SOCK_DGRAM:
                        _send(by_descriptor[descriptor])


def _sent_now(link: socket.socket, frame: bytes) -> bool:
    """Send a frame; return whether the link had room for it."""
    try:
        link.send(frame)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return False
    return True


def _send(one: Session) -> None:
    with contextlib.suppress(OSError):
        one.sock.send(b"%d\n" % one.sent)


def _receive(one: Session) -> bool:
    """Take what has arrived; return whether no more is to be expected: the answer is here, or the end."""
    try:
        data = one.sock.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True
    for line in data.decode().splitlines():
        name, _, number = line.partition(" ")
        if number == str(one.sent):
            one.answer = name
    return bool(one.answer) or not data


@contextlib.contextmanager
def nat_lab(name: str, folder: Path, **env: str) -> Iterator[NatLab]:
    """Bring the lab up from a copy of its files in a new folder, with the control; it ends with this process.

    The nodes share the tests' compiled programs: six nodes that compile those of NAT take a small machine a minute.
    """
    copy = copy_topology(folder)
    PROGRAMS.mkdir(exist_ok=True)
    bind = "        - haproxy.cfg:/etc/haproxy-lab.cfg:ro\n"
    daemons = "      exec: *daemons\n"
    accepted = ((POOL, NEW_POOL, WIDE_POOL), (POOL6, NEW_POOL6, WIDE_POOL6))
    new = [(f"{pools[0]} ]", f"{', '.join(pools)} ]") for pools in accepted]
    edit(copy / "routers/bird-nat.conf", *new)
    edit(copy / "nat.clab.yml", (bind, f"{bind}        - {PROGRAMS}:/var/cache/anylb\n"), (daemons, ""))
    with Lab.up(copy / "nat.clab.yml", f"{name}-{os.getpid()}", env, keep=False) as lab:
        made = NatLab(lab, copy)
        made.repeat_each_second()
        made.prepare_control()
        wait_for(lambda: made.agent_answers("b1"), "b1, which compiles for all if nobody has yet")
        for node in FOUR[1:]:
            made.start(node, "speaker", "agent")
        yield made


__all__ = ["BACKENDS", "CONTROL_VIP", "ECHO_PORT", "UDP_PORT", "VIP", "VIP6", "WEB_PORT", "NatLab", "nat_lab"]
