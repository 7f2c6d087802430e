# SPDX-License-Identifier: Apache-2.0
"""Part 5: the agent in a large cluster: CPU at rest, one change, changes all the time, claims, memory. Prints JSON.

The agent runs in a process of its own with real maps and real netlink. The relay's client is replaced: the bench hands
the agent what the relay would report of its routers. So are the echoes and the channel, since there is no other node:
all others answer, and the bench hands the agent what they would publish. `late` is how late a timer of the
agent's event loop fires while ten changes arrive per second; `control` the same of a bare event loop in another process
at the same time.
"""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from bench import figures, testrun
from bench.claims import ClaimingPeers
from bench.large import resident_mb

from agent.address import NodeAddress
from agent.channel.claim_log import NodeClaims
from agent.channel.state import NodeState, ServiceEndpoint, StateShare
from agent.config.file import parse
from agent.config.schema import Config
from agent.daemon.runtime import freeze_heap, tune
from agent.liveness.question import Liveness, PathStats, Via
from agent.membership.identity import identity_route
from agent.model import State
from agent.netlink.neighbor_limit import raise_neighbor_limits
from agent.node.agent import Agent
from agent.node.own_interface import Interface
from agent.paths import Paths
from bgp.relay.protocol import Peer, Snapshot
from bgp.relay.report import ReportReader, encode_changes
from bpf.attach.datapath import DataPath


@dataclass(frozen=True)
class Size:
    """A cluster."""

    members: int
    services: int
    routers: int


SIZES: Final = (Size(1000, 50, 2), Size(64, 150, 2))
FIRST: Final = int(IPv4Address("10.0.0.1"))
ROWS: Final = 65_536
SETTLE_S: Final = 12.0
"""Longer than the grace of the first tables, and than two confirmations of all neighbors."""
REST_S: Final = 30.0
"""The route monitor's longest interval."""
CHURN_S: Final = 30.0
CHURN_EVERY_S: Final = 0.1
TICK_S: Final = 0.02
READY_S: Final = 120.0


class Relay:
    """Replaces the relay's client: it reads the relay's reports of the states that it is given, and sends nothing."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._reported, self._reader = Snapshot(), ReportReader()
        self.connected = True
        self.error: str | None = None

    def report(self, state: Snapshot) -> None:
        """Receive what has changed."""
        for line in encode_changes(self._reported, state):
            report = self._reader.receive(line)
            if isinstance(report, Snapshot):
                self._reported, self.snapshot = state, report

    def send_desired(self, *_: object) -> None:
        """Ignore the desired routes."""

    async def run(self) -> None:
        """Run forever."""
        await asyncio.Event().wait()


class Others:
    """Replaces the asker, its sockets and the channel: it has what the others answer and publish, and sends nothing."""

    def __init__(self) -> None:
        self.liveness: Mapping[IPv4Address, Liveness] = {}
        self.states: Mapping[IPv4Address, NodeState] = {}
        self.claims: Mapping[IPv4Address, NodeClaims] = {}
        self.isolated, self.next_at = False, float("inf")

    def follow(self, *_: object) -> None:
        """Ignore which nodes to ask and to publish to; likewise what follows."""

    hint = wake = publish = publish_claims = follow

    def stats(self, _: IPv4Address) -> Mapping[Via, PathStats]:
        """Return no questions that were counted."""
        return {}

    def step(self, _: float) -> list[tuple[IPv4Address, bytes]]:
        """Return nothing to send."""
        return []

    def problems(self, _: float) -> tuple[str, ...]:
        """Return no problems."""
        return ()

    async def run(self) -> None:
        """Run forever."""
        await asyncio.Event().wait()


class Cluster:
    """All members but the first, which is this node: what the routers advertise, and what each publishes."""

    def __init__(self, config: Config, epoch: int, size: Size) -> None:
        self.endpoints = [ServiceEndpoint(s.vip, s.protocol, s.port_number) for s in config.services]
        self._up = dict.fromkeys(self.endpoints, StateShare(100, 100, State.UP, announced=True))
        self._draining = dict.fromkeys(self.endpoints, StateShare(100, 0, State.DRAINING, announced=True))
        self.addresses = addresses = [NodeAddress(IPv4Address(FIRST + n)) for n in range(1, size.members)]
        self.liveness = dict.fromkeys(addresses, Liveness(True, 0.0, boot=1, ready=True, heartbeat_age_s=0.0))
        self.states = dict.fromkeys(addresses, NodeState(1, 1, "1", True, (epoch,), self._up, reads_claims=True))
        routes = tuple(identity_route(config, address, None, 1, config.vips) for address in addresses)
        peers = tuple(Peer(f"10.0.255.{r + 1}", True, 1.0, True, routes) for r in range(size.routers))
        self.snapshot = Snapshot(peers)

    def toggle(self, n: int) -> None:
        """Drain a member, or end its drain."""
        before = self.states[IPv4Address(FIRST + n)]
        shares = self._up if before.shares is self._draining else self._draining
        changed = replace(before, shares=shares, version=before.version + 1)
        self.states = {**self.states, IPv4Address(FIRST + n): changed}


def configuration(size: Size) -> Config:
    """Return the configuration of a node in such a cluster."""
    services = "\n".join(
        f"  - {{name: s{i}, vip: 192.0.2.{1 + i // 100}, protocol: tcp, port: {1000 + i}}}"
        for i in range(size.services)
    )
    peers = ", ".join(f"{{address: 10.0.255.{r + 1}, as: 65000}}" for r in range(size.routers))
    return parse(
        f"cluster: 7\nnode: {{interface: node0}}\nservices:\n{services}\n"
        f"bgp: {{local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{peers}]}}\n"
        "members: {allow: [10.0.0.0/16], key: none}\n",
        "lb.yml",
    )


@contextlib.contextmanager
def network() -> Iterator[Interface]:
    """Make an interface with the node's address, on a link where every other address answers, from one MAC."""
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read -r _"], stdin=-1, stdout=-1) as far:
        assert far.stdout
        far.stdout.readline()  # now it is in its own namespace
        ip(
            f"link add node0 type veth peer name far netns {far.pid}",
            "link set node0 up",
            "addr add 10.0.0.1/16 dev node0",
        )
        answers = "route add local 10.0.0.0/16 dev lo table main", "route add 10.0.0.1 dev far"
        ip("link set lo up", "link set far up", *answers, inside=far.pid)
        (link,) = json.loads(subprocess.check_output(["ip", "-j", "link", "show", "node0"]))
        yield Interface("node0", link["ifindex"], bytes.fromhex(link["address"].replace(":", "")), IPv4Address(FIRST))


def ip(*commands: str, inside: int | None = None) -> None:
    """Have iproute2 do this, in the network namespace of a process."""
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


async def until(reached: Callable[[], bool]) -> float:
    """Wait for a state; return the seconds that it took."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() - began < READY_S, "the agent does not get there"
        await asyncio.sleep(0.001)
    return time.monotonic() - began


async def late_ms(seconds: float) -> float:
    """Return how late the timers of this event loop fire, in ms: the 99.9th percentile."""
    late = []
    end, due = time.monotonic() + seconds, time.monotonic() + TICK_S
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        late.append(max(0.0, time.monotonic() - due))
        due = max(due + TICK_S, time.monotonic())
    return round(1000 * sorted(late)[int(len(late) * 0.999)], 1)


class Running:
    """An agent that runs, and what the bench does to it."""

    def __init__(self, agent: Agent, size: Size) -> None:
        self.agent, self._size = agent, size
        relay, self._others = Relay(), Others()
        agent.announcer.relay = relay  # type: ignore[assignment]
        membership, others = agent.membership, self._others
        membership._asker = membership._probes = membership._channel = others  # type: ignore[assignment]
        self._cluster = Cluster(agent.config, agent.node.epochs[0], size)
        self._names = [service.name for service in agent.config.services]
        relay.report(self._cluster.snapshot)
        self._others.liveness = self._cluster.liveness
        self.hand_over()

    def hand_over(self) -> None:
        """Give the agent what the others publish now."""
        self._others.states = self._cluster.states
        self.agent._wake.set()

    async def change(self) -> float:
        """Drain a member or end its drain; return the seconds until all services have the table that follows."""
        assert self.agent.forwarder is not None
        writer = self.agent.forwarder.map_writer
        before = [writer.digest(name) for name in self._names]
        self._cluster.toggle(7)
        self.hand_over()
        return await until(lambda: all(map(str.__ne__, map(writer.digest, self._names), before)))

    async def churn(self) -> None:
        """Change a member each tenth of a second."""
        n = 0
        while True:
            n = n % (self._size.members - 2) + 1
            self._cluster.toggle(n)
            self.hand_over()
            await asyncio.sleep(CHURN_EVERY_S)

    async def claim(self) -> ClaimingPeers:
        """Have all other members claim rows, and wait until these rows have a place for them."""
        claiming = ClaimingPeers(self._cluster.addresses, self._cluster.endpoints, self.agent.node.epochs[0], ROWS)
        self._others.claims = claiming.claims
        keeper = self.agent.claims
        assert keeper is not None
        await until(lambda: len(keeper.taken()) == self._size.members - 1)
        return claiming

    async def change_claims(self, claiming: ClaimingPeers) -> None:
        """Change the claims of a member each tenth of a second."""
        for address in itertools.cycle(self._cluster.addresses):
            claiming.change(address)
            await asyncio.sleep(CHURN_EVERY_S)


async def measure(size: Size, rounds: int) -> dict[str, Any]:
    """Return the figures of one size."""
    with network() as interface, tempfile.TemporaryDirectory(prefix="anylb-scale-", dir="/dev/shm") as folder:
        run = Path(folder)
        paths = Paths(run=run, pins=Path("/sys/fs/bpf/scale"), kept=run)
        datapath = DataPath.open(paths.pins, "node0", rows=ROWS, ipv6=False)
        running = Running(Agent(configuration(size), paths, interface, datapath), size)
        freeze_heap()
        ending: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(running.agent.run(ending))
        found: dict[str, Any] = {**asdict(size), "first_fill_s": round(await until(lambda: running.agent.ready), 2)}
        await asyncio.sleep(SETTLE_S)
        with cpu_share(found, "rest_cpu"):
            await asyncio.sleep(REST_S)
        took = []
        for _ in range(rounds):
            took.append(await running.change())
            await asyncio.sleep(1)
        found["change_s"] = figures.min_median(took, 3)
        control = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.scale", "control", stdout=asyncio.subprocess.PIPE
        )
        churn = asyncio.create_task(running.churn())
        with cpu_share(found, "churn_cpu"):
            found["late_ms_p999"] = await late_ms(CHURN_S)
        churn.cancel()
        found["control_late_ms_p999"] = float((await control.communicate())[0])
        claiming = await running.claim()
        await asyncio.sleep(SETTLE_S)
        changes = asyncio.create_task(running.change_claims(claiming))
        with cpu_share(found, "claims_cpu"):
            found["claims_late_ms_p999"] = await late_ms(CHURN_S)
        changes.cancel()
        found["resident_mb"] = resident_mb()
        ending.set_result(False)
        await task
    return found


@contextlib.contextmanager
def cpu_share(found: dict[str, Any], name: str) -> Iterator[None]:
    """Store what share of one CPU this process uses during the context."""
    cpu, wall = time.process_time(), time.monotonic()
    yield
    found[name] = round((time.process_time() - cpu) / (time.monotonic() - wall), 4)


def main(arguments: Sequence[str]) -> None:
    """Measure all sizes, each in a process of its own; with three numbers more, that size in this process."""
    if arguments == ["control"]:
        print(asyncio.run(late_ms(CHURN_S)))
    elif len(arguments) == 1:
        command = [sys.executable, "-m", "bench.scale", *arguments]
        sizes = [[str(value) for value in asdict(size).values()] for size in SIZES]
        print(json.dumps([json.loads(subprocess.check_output([*command, *size])) for size in sizes]))
    else:
        rounds, *size = map(int, arguments)
        tune()
        raise_neighbor_limits(4, size[0])  # as the agent does, which cannot in a namespace
        testrun.isolate()
        print(json.dumps(asyncio.run(measure(Size(*size), rounds))))


if __name__ == "__main__":
    main(sys.argv[1:])
