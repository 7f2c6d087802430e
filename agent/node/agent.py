# SPDX-License-Identifier: Apache-2.0
"""One node's agent: its state, and the loop that brings the kernel and the routers to the desired state.

Owns the order. At the start: tables and XDP, then the others' identities, then health, then the announcement. At each
change: observe, plan, apply, announce. At the end: withdraw, and leave the data path in place. A fault in a pass is
kept and reported, and the next pass tries again: kernel objects come and go, and a node that stopped because of one
would break its flows.
"""

from __future__ import annotations

import asyncio
import logging
import pwd
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from agent.address import Address, Network
from agent.announcing import loopback, routes
from agent.announcing.announcer import Announcer
from agent.announcing.export_status import export_statuses
from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.forwarding.mss_clamp import MssClampKeeper
from agent.forwarding.route_monitor import RouteMonitor
from agent.health.check import check_forever
from agent.health.rise_fall import Health
from agent.membership import identity, identity_version
from agent.membership.prober import Prober
from agent.membership.received import IdentityReader, Received
from agent.membership.view import View
from agent.model import Announcement, Member, Share, State
from agent.netlink.connection import Netlink
from agent.netlink.vip import put_vips
from agent.node import saved_state
from agent.node.own_interface import Interface
from agent.node.plan import CandidateIndex, Condition, announcement, own_share, takes_flows
from agent.node.problems import Problems, unlisted_interfaces
from agent.paths import Paths
from agent.table import epoch
from agent.table.epoch import EpochSwitch
from bgp.relay.client import RelayClient
from bgp.relay.protocol import Snapshot
from bgp.route import Route
from bpf.attach.datapath import DataPath
from bpf.errors import BpfError

log = logging.getLogger("anylb")

TICK_S = 0.5
"""The interval of heartbeats to the relay, which needs at least one per second."""
COALESCE_S = 0.01
"""A burst of updates (a router sends all identities at once) makes one table, not one for each."""
STOP_S = 2.0
MACS_TIMEOUT_S = 1.0
HUNG_S = 60.0
"""A pass that takes longer hangs: the heartbeat stops, so that the relay's dead-man can act."""


class Agent:
    """The state and the tasks of one node. lifecycle.py creates it; control/ reads and changes it."""

    def __init__(self, config: Config, paths: Paths, interface: Interface, datapath: DataPath | None) -> None:
        self.config, self.paths, self.interface, self.datapath = config, paths, interface, datapath
        self.epochs = supported_epochs(config)
        self.epoch_switch: EpochSwitch | None = None
        """Which of its epochs this node uses; None before the first pass."""
        saved = saved_state.load(paths.state)
        self._state_file = saved_state.StateFile(paths.state)
        now = time.monotonic()
        self.admin_state: State = saved.admin_state
        self.announced_once = saved.announced_once
        self.announcer = Announcer(config, paths.orders, saved.flaps, saved.export_statuses)
        self.health = {
            s.name: Health(s.name in saved.healthy, 0, now, "healthy when the previous agent ended")
            if s.name in saved.healthy
            else Health.unknown(now)
            for s in config.services
        }
        self.view = View(m for m in saved.members if m.address != interface.address)
        self._reader = IdentityReader(config, interface.address)
        self._candidates = CandidateIndex({s.name: identity.service_id_of(s) for s in config.services})
        self._members: tuple[Member | None, tuple[Member, ...], tuple[Member, ...]] = None, (), ()
        """This node as a member, the view's members, and both together."""
        self._followed: tuple[Member, ...] | None = None
        """The members whose routes are monitored, and their IPv6 ends of tunnels."""
        self._ends: dict[IPv4Address, IPv6Address | None] = {}
        self.denied = saved.denied
        self.version = saved.version or identity_version.initial(time.time())
        self._deadman_acted = False
        self.drained, self.weights = saved.drained, dict(saved.weights)
        self.map_writer = None
        if datapath:
            ends = interface.address, interface.address6
            self.map_writer = MapWriter(config, self.epochs, datapath, *ends, self.all_denied)
        self.relay = RelayClient(paths.relay, _relay_uids(config.bgp.user), self._on_snapshot)
        self.prober = Prober(config, interface.address, self._version_to_reply, self._on_reply)
        self.membership_known = False
        self.stopping = False
        self._attached_once = False
        self.generation = 0
        self.refused: str | None = None
        """How often the configuration was reloaded, and why the last reload was refused; lifecycle.py sets both."""
        self.fault: str | None = None
        """Why the last pass failed; None if it did not."""
        self._saved = saved
        self.retiring = saved.vips - set(config.vips)
        """VIPs of an earlier configuration that are still on lo."""
        self._save_error: str | None = None
        self.problems = Problems(config, interface.address)
        self._desired: tuple[list[Route], list[Route]] | None = None
        self._announcers: tuple[str, ...] = ()
        self._announcing_members: tuple[Member, ...] | None = None
        """The members that `_announcers` was made of."""
        self._last_pass_at = now
        self.netlink = Netlink()
        self.route_monitor = self.mss_clamp = None
        if self.map_writer and datapath:
            self.mss_clamp = MssClampKeeper(config, datapath, self.map_writer, self.netlink)
            uplinks = [socket.if_nametoindex(name) for name in config.node.names]
            self.route_monitor = RouteMonitor(
                self.netlink, uplinks, self.map_writer.set_hop, self.map_writer.set_uplink_mac
            )
        self._wake = asyncio.Event()

    # State

    @property
    def ready(self) -> bool:
        """Whether this node can forward: tables in the kernel and XDP attached. True if the data path is off."""
        if self.map_writer is None or self.datapath is None:
            return True
        try:
            return self.map_writer.ready and self.datapath.attached()
        except BpfError:  # the interface no longer exists
            return False

    @property
    def condition(self) -> Condition:
        """The input of plan.py's decisions."""
        healthy = {name: health.healthy for name, health in self.health.items()}
        has_ipv6 = self.interface.next_hop6 is not None
        return Condition(
            self.ready, healthy, self.admin_state, self.announced_once, self.drained, self.weights, has_ipv6
        )

    def own_shares(self) -> dict[int, Share]:
        """Return this node's share of each service, by service id."""
        condition = self.condition
        announced = {vip for vip, announcement in self.announcements.items() if announcement.wanted}
        return {
            identity.service_id_of(s): replace(own_share(s, condition), announced=s.vip in announced)
            for s in self.config.services
        }

    @property
    def announcements(self) -> Mapping[Address, Announcement]:
        """The decision for each VIP; empty before the first one."""
        return self.announcer.announcements

    def members(self) -> tuple[Member, ...]:
        """Return the members of the view and this node itself, by address; the same object as long as none changes."""
        here = self.interface
        first, *others = self.epoch_numbers
        shares, epochs = self.own_shares(), tuple(others)
        own = Member(here.address, first, shares, False, 0.0, "this node", here.address6, epochs=epochs)
        known, made_of, result = self._members
        if own == known and made_of is self.view.members:
            return result
        result = tuple(sorted((*self.view.members, own), key=lambda member: int(member.address)))
        self._members = own, self.view.members, result
        return result

    @property
    def epoch_numbers(self) -> tuple[int, ...]:
        """The epochs that this node supports, the preferred one first."""
        return tuple(one.number for one in self.epochs)

    @property
    def all_denied(self) -> frozenset[Network]:
        """The deny list: the configuration's prefixes and those that the operator added."""
        return self.denied | set(self.config.deny)

    def withdrawn(self, vips: Iterable[Address]) -> bool:
        """Return whether the relay confirms that these VIPs, which are not desired, are in no peer's adj-rib-out."""
        if self._desired is None or not self.relay.connected or self.relay.snapshot is None:
            return False
        prefixes = {routes.vip_prefix(vip) for vip in vips}
        return not any(prefixes & peer.announced for peer in self.relay.snapshot.peers)

    # Changes by the operator and by the tasks

    def deny(self, denied: frozenset[Network]) -> None:
        """Replace the operator's deny list, at once, and save it for the next agent. BpfError: the map is full."""
        before, self.denied = self.denied, denied
        try:
            if self.map_writer is not None:
                self.map_writer.deny(self.all_denied)
        except BpfError:
            self.denied = before
            raise
        self._wake.set()

    def changed(self) -> None:
        """Save what the operator changed; the next pass applies it."""
        self._save()
        self._wake.set()

    def announce_now(self) -> None:
        """Apply the operator's orders for VIPs without waiting for a pass: no table depends on them."""
        if self._desired is not None:
            self._announce()
        self._wake.set()

    def set_backend(self, services: Iterable[str], drained: bool | None = None, weight: int | None = None) -> None:
        """Drain or undrain this node for some services; set its effective weight (the nominal one: as configured)."""
        for service in services:
            if drained is not None:
                self.drained = self.drained | {service} if drained else self.drained - {service}
            if weight is not None:
                self.weights[service] = weight
        nominal = {s.name: s.weight for s in self.config.services}
        self.weights = {name: low for name, low in self.weights.items() if low < nominal.get(name, 0)}
        self.changed()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        if snapshot.deadman and not self._deadman_acted:
            self.version = self.version.after_fallback()
        self._deadman_acted = snapshot.deadman
        self._wake.set()

    def _version_to_reply(self) -> int | None:
        """Return the version for replies to direct probes; None to send none, because the node leaves or has left."""
        return None if self.stopping or self.admin_state is State.LEFT else self.version.number

    def _on_reply(self, address: IPv4Address, number: int) -> None:
        self.view.receive_reply(address, number, time.monotonic())
        self._wake.set()

    # Tasks

    async def put_vips(self) -> None:
        """Put the VIPs on lo, before `run`. AgentError: it failed, and the agent must not run."""
        try:
            await put_vips(self.netlink, self.config.vips, self.config.node.names)
        except AgentError:
            self.netlink.close()
            raise

    async def run(self, ending: asyncio.Future[bool]) -> None:
        """Run until `ending` is done. Then withdraw if its result is True, which means that no other agent follows."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self.relay.run()),
                tasks.create_task(self.prober.run()),
                tasks.create_task(self._reconcile_forever()),
                tasks.create_task(self._heartbeat_forever()),
                tasks.create_task(self._keep_vips()),
                tasks.create_task(self._retire_vips()),
                *(tasks.create_task(check_forever(s, self.health, self._wake.set)) for s in self.config.services),
            ]
            if self.route_monitor is not None:
                running.append(tasks.create_task(self.route_monitor.run()))
            if self.mss_clamp is not None:
                running.append(tasks.create_task(self.mss_clamp.run()))
            if await ending:
                await self._withdraw()
            for task in running:
                task.cancel()
        self.netlink.close()

    async def _keep_vips(self) -> None:
        indexes = {self.interface.name: self.interface.index}
        if self.datapath is not None:
            indexes |= {one.interface: one.ifindex for one in self.datapath.uplinks}
        await loopback.keep_vips(self.netlink, self.config.vips, self.config.node.names, indexes)

    async def _retire_vips(self) -> None:
        vips = self.retiring
        await loopback.retire_vips(self.netlink, vips, lambda: self.withdrawn(vips), self._retire_services)
        self.retiring = frozenset()

    def _retire_services(self) -> None:
        if self.map_writer is not None:
            self.map_writer.retire()

    async def _reconcile_forever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(COALESCE_S)
            self._wake.clear()
            now = time.monotonic()
            received = self._reader.read(self.relay.snapshot, self.relay.connected)
            self.view.observe(received.reports, now)
            self.prober.probe(self.view.take_due_probes(now))
            if not self.membership_known:
                if not self.view.is_complete(now):
                    continue
                self.membership_known = True
            await self._reconcile(received, now)
            self._last_pass_at = time.monotonic()

    async def _reconcile(self, received: Received, now: float) -> None:
        """Make one pass from the observed to the desired state; it writes only what differs."""
        members = self.members()
        if self.map_writer is not None and self.datapath is not None:
            before, self.fault = self.fault, None
            try:
                await self._forward(self.map_writer, self.datapath, members, now)
            except (BpfError, AgentError) as error:
                # The kernel keeps what it has. `ready` asks the kernel itself whether it forwards.
                self.fault = str(error)
                if self.fault != before:
                    log.error("%s", error)
        versions = self.version.number, self.version.fallback
        others = [self.prober.error, *unlisted_interfaces(self.map_writer, self.datapath)]
        self.problems.observe(received, members, self.epoch_numbers, versions, others, now)
        self.version = self.version.after_reflections(received.reflections, now)
        self._announce()

    async def _forward(
        self, map_writer: MapWriter, datapath: DataPath, members: tuple[Member, ...], now: float
    ) -> None:
        """Write the tables, then attach the program: it must never handle a packet with empty tables."""
        condition = self.condition
        found = self._candidates.of(members)
        up = {s.name: own_share(s, condition).effective > 0 for s in self.config.services}
        if members is not self._followed:
            self._ends = {member.address: member.address6 for member in members}
            targets = {map_writer.target(a, end6) for a, end6 in self._ends.items() if a != self.interface.address}
            if self.route_monitor is not None:
                self.route_monitor.follow(targets, map_writer.known_hop)
            self._followed = members
        epoch_switch = self._switch_epoch(map_writer, members, now)
        await map_writer.apply(found, up, self._ends, epoch_switch, now)
        if not (self._attached_once and datapath.attached()):
            await self._wait_for_macs()
            if self.mss_clamp is not None:
                await self.mss_clamp.keep()
            datapath.attach()  # also replaces the program of an older build, and changes the mode
            self._attached_once = True
            log.info("XDP attached: %s", ", ".join(f"{name} ({mode})" for name, mode in datapath.modes.items()))
            if datapath.fallback_reason:
                log.warning("%s", datapath.fallback_reason)

    def _switch_epoch(self, map_writer: MapWriter, members: tuple[Member, ...], now: float) -> EpochSwitch:
        """Decide which epoch new flows use from now on, and which one is next."""
        wanted = epoch.choose(self.epoch_numbers, members)
        previous = self._saved.use if self._saved.use and self._saved.use.first in self.epoch_numbers else None
        before = self.epoch_switch or EpochSwitch(map_writer.use or previous or wanted)
        after = before.after(wanted, now)
        if self.epoch_switch is None or before.use.first != after.use.first:
            log.info("new flows use epoch %#x", after.use.first)
        self.epoch_switch = after
        return after

    async def _wait_for_macs(self) -> None:
        """Wait, before the first packet, until the MACs of all present members are known, but not longer than
        MACS_TIMEOUT_S: the program skips a member without a MAC, and one that does not answer may never have one.
        """
        assert self.map_writer is not None
        deadline = time.monotonic() + MACS_TIMEOUT_S
        present = [self.map_writer.target(m.address, m.address6) for m in self.view.members if not m.lost]
        while time.monotonic() < deadline and not self.map_writer.reaches(present):
            await asyncio.sleep(COALESCE_S)

    def _announce(self) -> None:
        """Send the relay all desired routes. This is a heartbeat too."""
        condition = self.condition
        members = self.members()
        unserved = {name for name, found in self._candidates.of(members).items() if not any(map(takes_flows, found))}
        allowed = {vip: announcement(self.config, vip, condition, unserved) for vip in self.config.vips}
        self.announcer.decide(allowed, time.monotonic(), time.time())
        wanted = {vip: a.method for vip, a in self.announcements.items() if a.wanted and not self.stopping}
        self.announced_once |= wanted.keys()
        here, shares = self.interface, self.own_shares()
        if self.stopping:
            shares = identity.fallback_shares(shares)
        own = identity.own_identity(self.config, here.address, self.epoch_numbers, shares, here.address6)
        self.version = self.version.with_content(identity.content_digest(own))
        self._save()  # before it is announced: a version must never be used again for another content
        self._desired = routes.desired_routes(
            self.config, here.address, self.epoch_numbers, shares, wanted, here.address6, self.version, here.next_hop6
        )
        if members is not self._announcing_members:
            self._announcing_members, self._announcers = members, identity.announcer_prefixes(self.config, members)
        self.relay.send_desired(*self._desired, self._announcers)
        snapshot = self.relay.snapshot if self.relay.connected else None
        by_prefix = {route.prefix: route for route in self._desired[0]}
        self.announcer.observe(export_statuses(self.config, self.announcements, by_prefix, snapshot), time.time())

    def _save(self) -> None:
        healthy = frozenset(name for name, health in self.health.items() if health.healthy)
        vips = self.retiring.union(self.config.vips)
        new = saved_state.SavedState(
            members=self.view.members,
            healthy=healthy,
            admin_state=self.admin_state,
            announced_once=self.announced_once,
            vips=vips,
            denied=self.denied,
            use=self.epoch_switch.use if self.epoch_switch else self._saved.use,
            version=self.version,
            drained=self.drained,
            weights=tuple(sorted(self.weights.items())),
            flaps=dict(self.announcer.flaps),
            export_statuses=self.announcer.entries,
        )
        if new == self._saved:
            return
        try:
            self._state_file.save(new)
            self._saved, self._save_error = new, None
        except OSError as error:  # the next pass tries again; without the file only a restart costs more
            if self._save_error != error.strerror:
                log.error(
                    "%s: %s; a restarted agent will not know the state of this one", self.paths.state, error.strerror
                )
            self._save_error = error.strerror

    async def _heartbeat_forever(self) -> None:
        """Send heartbeats, and wake the loop for changes that come with time alone or without an event.

        Heartbeats go on while a pass builds large tables, but not when a pass hangs.
        """
        while True:
            if self._desired is not None and time.monotonic() - self._last_pass_at < HUNG_S:
                self.relay.send_desired(*self._desired, self._announcers)
            self._wake.set()
            await asyncio.sleep(TICK_S)

    async def _withdraw(self) -> None:
        """Withdraw the VIPs and wait until the relay confirms it, STOP_S at most.

        The data path and the VIPs on lo stay, because routers need time to converge.
        """
        self.stopping = True
        self._announce()
        deadline = time.monotonic() + STOP_S
        # A relay that connects or restarts right now receives it within this time too.
        while time.monotonic() < deadline and not self.withdrawn(self.config.vips):
            await asyncio.sleep(0.02)


def _relay_uids(user: str) -> set[int]:
    """Return who may serve the relay's socket: the BGP user, and root. Raises AgentError if there is no such user."""
    try:
        return {0, pwd.getpwnam(user).pw_uid}
    except KeyError:
        raise AgentError(f"bgp.user: there is no user {user} here; create it or name another") from None
