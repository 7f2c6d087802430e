# SPDX-License-Identifier: Apache-2.0
"""The data path of this node, brought to the plan's tables: node entries, rows, services, and XDP on the interface.

A task of its own: a swap of many tables waits for the kernel, and no route must wait for that. It writes the latest
tables that it was given; those that come meanwhile replace each other. A fault is kept and reported, and the next
attempt follows: kernel objects come and go, and a node that stopped because of one would break its flows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from agent.address import Address, Network
from agent.config.schema import Config
from agent.errors import AgentError
from agent.forwarding import narrow_path, vlan
from agent.forwarding.egress import EgressKeeper
from agent.forwarding.epoch_bank import NO_CLAIMS
from agent.forwarding.hop_keeper import HopKeeper
from agent.forwarding.map_writer import MapWriter
from agent.forwarding.next_hop import NextHop
from agent.forwarding.unlisted_interface import unlisted_interfaces
from agent.membership.agreement import Digests
from agent.membership.digest import tables_digest
from agent.membership.obstacle import bounded
from agent.model import NAT_TABLE, State
from agent.nat.writer import NatWriter, Usable
from agent.netlink.connection import Netlink
from agent.netlink.ethtool import strips_vlan_tags
from agent.netlink.link import Link
from agent.node.plan import Tables, ThisNode
from agent.problem import Problem, ProblemLine
from agent.table.claims import Claims
from agent.table.epoch import Epoch, EpochUse
from agent.tick import until_next
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError
from bpf.layout.counter import Counter
from bpf.layout.echo import EchoState

log = logging.getLogger("anylb")

CHECK_S = 0.5
"""The interval of checks whether XDP is still attached, and of new attempts after a fault."""
MACS_TIMEOUT_S = 1.0
MACS_CHECK_S = 0.01
DROP_S = 120.0
HUNG_S = 60.0
"""Tables that take longer hang: the heartbeat stops, so that the relay's dead-man can act."""

UNWRITTEN = Problem(
    "tables or XDP: {error}",
    "the agent tries again each second; until then the kernel keeps the tables that it has",
    "The kernel refused a program, a map or an interface; the error has its text. `lbctl check` is critical. `lbctl "
    "doctor` looks at what the data path needs of the machine.",
)
UNPINNED = Problem(
    "the data path's pins were removed, and cannot be made again: {error}",
    "mount -t bpf bpf /sys/fs/bpf if nothing is mounted there; the agent tries again each second",
    "Packets are handled for as long as this agent runs. If it ends without the pins, by which the data path outlives "
    "it, the kernel detaches the programs: connections break, and NAT sessions are lost.",
)


class Forwarder:
    """The data path, and what keeps its next hops and its segment sizes up to date."""

    def __init__(
        self,
        node: ThisNode,
        epochs: Iterable[Epoch],
        datapath: DataPath,
        netlink: Netlink,
        denied: Iterable[Network],
        on_change: Callable[[], None],
    ) -> None:
        """Take over what an earlier agent left. `on_change` is called when `ready` or `fault` differs."""
        self.datapath = datapath
        self.fault: ProblemLine | None = None
        """Why the tables could not be written; None if they could."""
        self.map_writer = MapWriter(node.config, tuple(epochs), datapath, node.address, node.address6, denied)
        self.nat = nat_writer(node.config, datapath, self.map_writer)
        """Writes what NAT needs; None without it."""
        on_mtu = self.nat.set_mtu if self.nat else lambda _: None
        self.egress_filter = EgressKeeper(node.config, datapath, self.map_writer, netlink, on_mtu)
        uplinks = [socket.if_nametoindex(name) for name in node.config.node.names]
        self._hops = HopKeeper(netlink, uplinks, self.map_writer.set_uplink_mac, self._on_links)
        self._usable: Usable = self.nat.usable if self.nat else {}
        self.ready = False
        """Whether this node can forward: tables in the kernel and XDP attached. The kernel is asked each `CHECK_S`."""
        self.took_over = self.map_writer.use is not None
        """Whether an earlier agent left tables that the program uses: it forwards before this agent writes any."""
        self.after_tables: Callable[[], None] = lambda: None
        """Is called when tables were written."""
        self.tried = False
        """Whether the first tables were written, or could not be."""
        self.attached = asyncio.Event()
        """Set once the program is on all interfaces."""
        self._own, self._node, self._preferred = node.address, node.config.node, node.epochs[0]
        self._services = node.config.services
        self._on_change = on_change
        self._tables: Tables | None = None
        self._claims = NO_CLAIMS
        self._followed: Mapping[IPv4Address, IPv6Address | None] = {}
        self._problems: tuple[int, list[ProblemLine]] = -1, []
        """Of which revision of the map writer, and which."""
        self._stripped: list[ProblemLine] = []
        """What is wrong with the uplinks' offloads."""
        self._silent: Mapping[IPv4Address, float] | None = None
        self._doubted: Mapping[IPv4Address, float] = {}
        self._retires = False
        """Whether services are to be removed: between two writes, since a write goes on while its thread waits."""
        self._attached_once = False
        self._written: tuple[Tables | None, Usable] | None = None
        """The tables and backends that were written last."""
        self._busy_since: float | None = None
        self._wake = asyncio.Event()

    @property
    def use(self) -> EpochUse | None:
        """How the program uses the epochs; None if it uses none of this node's."""
        return self.map_writer.use

    @property
    def boot(self) -> int:
        """The number of this boot that echoes are answered with, also that of an earlier agent; 0: none yet."""
        return self.datapath.maps.echo_state.read().boot

    @property
    def written(self) -> bool:
        """Whether the program uses the tables and backends that are wanted now: until then it uses the former ones."""
        return self._written is not None and self._written == (self._tables, self._usable)

    def is_stuck(self, now: float) -> bool:
        """Whether writing takes so long that it will not end. `now` is CLOCK_MONOTONIC seconds."""
        return self._busy_since is not None and now - self._busy_since >= HUNG_S

    def want(self, tables: Tables) -> None:
        """Have these tables written, instead of any that are not written yet."""
        if tables != self._tables:
            self._tables = tables
            self._wake.set()

    def want_claims(self, claims: Mapping[str, Mapping[int, Claims]]) -> None:
        """Have these claims, by service name and epoch, written into rows."""
        self._claims = claims
        self._wake.set()

    def want_backends(self, usable: Usable) -> None:
        """Have new sessions choose among these backends, by service name."""
        if usable != self._usable:
            self._usable = usable
            self._wake.set()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what must run for as long as the agent does."""
        return [self._write_forever(), self._hops.run(), self.egress_filter.run()]

    def problems(self) -> list[ProblemLine]:
        """Return why the tables could not be written, and problems for nodes that packets may not get to, and for VLANs
        that the program does not handle."""
        if self._problems[0] != self.map_writer.nodes.revision:
            writer = self.map_writer
            narrow = narrow_path.problems(writer.nodes.narrow(), self._services)
            unnamed = vlan.unnamed_by_nodes(writer.nodes.vlans(), frozenset(self._node.vlans))
            found = [*unlisted_interfaces(writer, self.datapath), *bounded(narrow), *unnamed]
            self._problems = writer.nodes.revision, found
        return [
            *([self.fault] if self.fault else ()),
            *self._problems[1],
            *self._stripped,
            *self._hops.problems(),
            *(bounded(self.nat.problems({one.ifindex for one in self.datapath.uplinks})) if self.nat else ()),
        ]

    def _on_links(self, links: Mapping[int, Link]) -> None:
        stripped = vlan.stripped(links, self._node.names, self._node.vlans, strips_vlan_tags)
        if stripped != self._stripped:
            self._stripped = stripped
            self._on_change()

    async def _write_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_next(CHECK_S, time.monotonic())):
                    await self._wake.wait()
            self._wake.clear()
            if self._tables is None:
                continue
            before = self.tried, self.ready, self.fault
            wanted = self._tables, self._usable
            self._busy_since = time.monotonic()
            try:
                unpinned = self._keep_pinned()
                await self._write(self._tables)
                self.fault, self._written = unpinned, wanted
            except (BpfError, AgentError, OSError) as error:  # the kernel keeps what it has, and may forward by it
                fault = UNWRITTEN.line(error=error)
                if fault != self.fault:
                    log.error("%s", fault)
                self.fault = fault
            self._busy_since, self.ready, self.tried = None, self._forwards(), True
            if self.ready:
                self.attached.set()
            if (self.tried, self.ready, self.fault) != before:
                self._on_change()

    def _keep_pinned(self) -> ProblemLine | None:
        """Have the data path outlive this agent; return why that cannot be."""
        try:
            if self.datapath.keep_pinned():
                log.warning("the data path's pins were removed, and were made again: leave /sys/fs/bpf/anylb alone")
        except (BpfError, OSError) as error:
            line = UNPINNED.line(error=error)
            if line != self.fault:
                log.error("%s", line)
            return line
        return None

    def _forwards(self) -> bool:
        try:
            return self.map_writer.ready and self.datapath.attached()
        except BpfError:  # the interface no longer exists
            return False

    async def _write(self, tables: Tables) -> None:
        """Write the tables, then attach the program: it must never handle a packet with empty tables."""
        writer = self.map_writer
        if self._retires:
            writer.retire()
            self._retires = False
        if self.nat is not None:
            if not self._attached_once:
                await _whole(self.datapath.resume)
            from_former = tables.epoch_switch.use.first != self._preferred
            self.nat.apply(tables.up[NAT_TABLE], self._usable, from_former)
            self.nat.retire(time.monotonic())
            self._hops.follow(self.nat, self.nat.targets)
        await writer.apply(
            tables.candidates, tables.up, tables.ends, tables.epoch_switch, time.monotonic(), self._claims
        )
        self.after_tables()
        if self._attached_once and self.datapath.attached():
            return
        if self._attached_once:  # a program that something detached comes back at once
            self.datapath.attach()
        else:
            await self._wait_for_macs(tables)
            await self.egress_filter.keep()
            # It also replaces the program of an older build, and changes the mode; it may have millions of sessions to
            # copy, while the heartbeats go on.
            await _whole(self.datapath.attach)
        again, self._attached_once = self._attached_once, True
        self._problems = -1, []  # they depend on the mode
        modes = ", ".join(f"{name} ({mode})" for name, mode in self.datapath.modes.items())
        if again:
            log.warning("XDP was detached by something else, and is attached again: %s", modes)
        else:
            log.info("XDP attached: %s", modes)
        if self.datapath.fallback_reason:
            log.warning("%s", self.datapath.fallback_reason)

    async def _wait_for_macs(self, tables: Tables) -> None:
        """Wait, before the first packet, until the MACs of all present members are known, but not longer than
        MACS_TIMEOUT_S: the program skips a member without a MAC, and one that does not answer may never have one.
        """
        deadline = time.monotonic() + MACS_TIMEOUT_S
        members = {id(one): one for one in tables.candidates.values()}.values()
        present = {c.address for one in members for c in one if c.state is not State.LOST and c.address != self._own}
        targets = [self.map_writer.nodes.target(address, tables.ends.get(address)) for address in present]
        while time.monotonic() < deadline and not self.map_writer.nodes.reaches(targets):
            await asyncio.sleep(MACS_CHECK_S)

    def reaches(self, address: IPv4Address, tables: Tables) -> bool:
        """Return whether the MAC of a node's next hop is known."""
        return self.map_writer.nodes.reaches([self.map_writer.nodes.target(address, tables.ends.get(address))])

    def follow(self, ends: Mapping[IPv4Address, IPv6Address | None]) -> None:
        """Keep the next hops of these nodes up to date, given with their IPv6 ends of tunnels: members, and those that
        may become members, since they are asked by the encapsulation that packets have."""
        if ends is not self._followed:
            targets = {self.map_writer.nodes.target(*end) for end in ends.items()}
            self._hops.follow(self.map_writer.nodes, targets)
            self.map_writer.nodes.keep_hops(targets)
            self._followed = ends

    def hop_of(self, target: Address) -> NextHop | None:
        """Return how packets reach an address that is followed, as far as that is known."""
        return self.map_writer.nodes.known_hop(target)

    def egress(self) -> tuple[int, bytes] | None:
        """Return index and MAC of the interface that packets arrive on and leave by, if no route says otherwise."""
        entry = self.datapath.maps.uplinks.read(0)
        return (entry.ifindex, entry.mac) if entry is not None else None

    def pass_over(self, silent: Mapping[IPv4Address, float], doubted: Mapping[IPv4Address, float]) -> None:
        """Have packets pass over the silent nodes, given since when they are (CLOCK_MONOTONIC seconds).

        For `DROP_S` what only such a node could know is dropped, not answered with a reset; so is what only a doubted
        one could know, since other nodes may have led packets past it.
        """
        if (silent, doubted) != (self._silent, self._doubted):
            self.map_writer.nodes.set_silent(_drop_until(silent), _drop_until(doubted))
            self._silent, self._doubted = silent, doubted

    @property
    def tables_digest(self) -> int:
        """The digest of all tables."""
        return tables_digest(self.map_writer.digests())

    def count_echoes(self) -> int:
        """Return how many questions of other nodes the data path has answered."""
        return self.datapath.maps.counters.of_counter(0, Counter.REPLY_ECHO)

    def answer_with(self, boot: int, digests: Digests, ready: bool) -> None:
        """Have echoes answered with this, and with the time of this call: the heartbeat."""
        heartbeat_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.datapath.maps.echo_state.write(EchoState(heartbeat_ns, boot, digests.view, digests.tables, ready))

    def retire_services(self) -> None:
        """Remove the services whose VIPs left the configuration: routers no longer send their packets here."""
        self._retires = True
        self._wake.set()


def _drop_until(since: Mapping[IPv4Address, float]) -> dict[IPv4Address, int]:
    return {address: round((at + DROP_S) * 1e9) for address, at in since.items()}


def nat_writer(config: Config, datapath: DataPath, map_writer: MapWriter) -> NatWriter | None:
    """Return the writer of what NAT needs; None without it."""
    if datapath.maps.nat is None:
        return None
    slots = {service.name: map_writer.slot(service.name) for _, service in config.nat_services}
    return NatWriter(config, datapath.maps.nat, slots, map_writer.slot(NAT_TABLE))


async def _whole(work: Callable[[], None]) -> None:
    """Do this in a thread, and wait for its end also if this task must end: the next agent must not begin the same
    beside it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    finally:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        running.exception()  # if the task ends, it interests no one
