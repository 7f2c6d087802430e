# SPDX-License-Identifier: Apache-2.0
"""One node's agent: the inputs of its plan, and the loop that makes the next plan when one of them changes.

Owns the order. At the start: tables and XDP, then the others' identities, then health, then the announcement. At each
change: observe, plan (planner.py), save, announce; the tables follow in a task of their own (forwarder.py), because
what is announced must not wait for this node's own swaps. At the end: leave the routes to the relay, and the data path
in place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from agent.address import Address, Network
from agent.announcing.order_book import OrderBook
from agent.channel.event import Notice
from agent.channel.trace import TraceReply, TraceRequest
from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.connections.monitor import ConnectionMonitor
from agent.forwarding.answer_monitor import AnswerMonitor
from agent.forwarding.deny_list import DenyList
from agent.health.check import checks, node_problems
from agent.health.rise_fall import initial_health
from agent.instances.keeper import InstanceKeeper, InstancePaths
from agent.membership import foreign_routes
from agent.membership.obstacle import bounded
from agent.model import Member, Share
from agent.netlink.connection import Netlink
from agent.node import start
from agent.node.announcer import Announcer
from agent.node.claim_keeper import ClaimKeeper
from agent.node.forwarder import Forwarder
from agent.node.kept_files import KeptFiles
from agent.node.membership import Membership
from agent.node.nat import Nat
from agent.node.operator import Known, Operator
from agent.node.overviews import Overviews
from agent.node.own_interface import Interface
from agent.node.own_vips import OwnVips
from agent.node.plan import Inputs, Plan
from agent.node.plan_log import log_changes
from agent.node.planner import Planner
from agent.node.publisher import Publisher
from agent.node.saved_state import SavedState
from agent.node.session_log import SessionLog
from agent.node.tracer import Tracer, reply_of
from agent.paths import Paths
from agent.problem import ProblemLine
from agent.table.epoch import EpochSwitch
from agent.tick import sleep_until_next
from bpf.attach.datapath import DataPath

log = logging.getLogger("anylb")

TICK_S = 0.5
"""The interval of heartbeats to the relay, which needs at least one per second."""
COALESCE_S = 0.01
"""A burst of updates (a router sends all identities at once) makes one plan, not one for each."""


class Agent:
    """The inputs, the plan and the tasks of one node. daemon/process.py creates it."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        interface: Interface,
        datapath: DataPath | None,
        file_problems: Callable[[], tuple[ProblemLine, ...]] = lambda: (),
    ) -> None:
        """`file_problems` returns what is in the way of lb.yml, one line each."""
        self.config, self.paths = config, paths
        self.epochs = supported_epochs(config)
        self.node = start.this_node(config, interface, time.time())
        self._wake = asyncio.Event()
        self._files = KeptFiles(paths)
        saved = self._files.state
        self.health = initial_health((s.name for s in config.services), saved.healthy, time.monotonic())
        orders = OrderBook(paths.orders, config.vips)
        self.operator = Operator(config, start.operator_state(saved), orders, self._known, self._replan)
        self._session_log = SessionLog()
        self.announcer = Announcer(self.node, paths.relay, saved.export_statuses, self._wake.set)
        self._netlink = Netlink()
        self.forwarder = None
        if datapath is not None:
            denied = saved.denied.union(config.deny)
            self.forwarder = Forwarder(self.node, self.epochs, datapath, self._netlink, denied, self._wake.set)
        self.membership = Membership(
            self.node,
            start.boot_number(saved.boot, self.forwarder),
            self._files.members(interface.address),
            self._files.known_nodes,
            self.forwarder,
            self._wake.set,
        )
        self.publisher = Publisher(self.membership)
        backends = (backend.address for service in config.services for backend in service.backends)
        self.deny_list = DenyList(config.deny, saved.denied, self._write_denied, self._save, backends)
        self.connections = ConnectionMonitor(config.services, self.epochs, self._wake.set)
        self.claims = None
        if self.forwarder is not None and config.table.claims:
            self.claims = ClaimKeeper(config, self.epochs, self.connections, self.forwarder, self.membership)
        self.nat = Nat(self.node, self.forwarder, self.membership, saved.backend_orders, self.health, self._wake.set)
        self.tracer = Tracer(interface.address, self.membership.notify_one, self._trace_here)
        self.overviews = Overviews(self.membership.notify_one)
        self.membership.on_notice = self._receive_notice
        instance_paths = InstancePaths(
            paths.instance_pins, paths.steering_pins, paths.instances, paths.hand_over, paths.programs
        )
        self.instances = InstanceKeeper(config, instance_paths, self._wake.set)
        memory = start.first_memory(self.node, saved, self.forwarder.use if self.forwarder else None)
        self.planner = Planner(self.node, memory)
        self.generation = 0
        """How often the configuration was replaced; the daemon sets it."""
        self._file_problems = file_problems
        self.metrics_problem: ProblemLine | None = None
        """Why no metrics are served; the control socket's server sets it."""
        self.answers = AnswerMonitor(config, interface.address, self._netlink, self._wake.set)
        self.vips = OwnVips(self._netlink, config, interface, self.forwarder, saved.vips, self.answers.start)

    # What others read

    @property
    def ready(self) -> bool:
        """Whether this node can forward (as without a data path, if that is off by configuration) and has the VIPs."""
        return self.vips.are_put and (self.forwarder is None or self.forwarder.ready)

    @property
    def membership_known(self) -> bool:
        """Whether the view is whole, or the time for that is over: before that nothing is planned."""
        return self.membership.view.is_complete()

    @property
    def plan(self) -> Plan | None:
        """The last plan; None until the membership is known."""
        return self.planner.plan

    @property
    def epoch_switch(self) -> EpochSwitch | None:
        """Which of its epochs this node uses; None before the first plan of a node that has used none."""
        return self.planner.memory.epoch_switch

    def shares(self) -> dict[str, Share]:
        """Return this node's share of each service, by name, and of the sessions."""
        return self.planner.shares(self._inputs())

    def members(self) -> tuple[Member, ...]:
        """Return all nodes, this one included, by address."""
        return self.plan.members if self.plan else self.planner.first_members(self._inputs())

    def path_problems(self) -> tuple[ProblemLine, ...]:
        """Return what keeps packets of VIPs from clients, one line each; they are among the problems."""
        return (*(fault.line for fault in self.answers.faults), *node_problems(self.health))

    def problems(self) -> tuple[ProblemLine, ...]:
        """Return what the operator must know, one line each; before the first plan, why there is none."""
        if self.plan is not None:
            return self.plan.problems
        return (
            *self._file_problems(),
            *self.membership.problems(),
            *bounded([line for _, _, line in self.membership.obstacles]),
        )

    def _receive_notice(self, notice: Notice, now: float) -> None:
        self.tracer.receive(notice, now)
        self.overviews.receive(notice)

    def _trace_here(self, request: TraceRequest) -> TraceReply:
        datapath = self.forwarder.datapath if self.forwarder else None
        sessions = self.nat.sessions.table if self.nat.sessions else None
        return reply_of(self.node.address, datapath, self.deny_list.prefixes, request, time.monotonic_ns(), sessions)

    def _known(self) -> Known:
        return Known(self.membership.view.members, self.planner.announcements())

    def is_stuck(self, now: float) -> bool:
        """Whether the kernel does not return from writing tables. `now` is CLOCK_MONOTONIC seconds."""
        return self.forwarder is not None and self.forwarder.is_stuck(now)

    # Inputs that change

    def _replan(self, ended_hold_downs: Collection[Address] = ()) -> None:
        """Make a plan of what the operator has changed, at once: the answer to the request follows it."""
        self.planner.end_hold_downs(ended_hold_downs)
        self._save()
        if self.membership_known:
            self._make_plan(time.monotonic(), requested=True)

    def _write_denied(self, prefixes: frozenset[Network]) -> None:
        if self.forwarder is not None:
            self.forwarder.map_writer.deny(prefixes)

    def _inputs(self) -> Inputs:
        forwarder, membership = self.forwarder, self.membership
        leaks = foreign_routes.problems(self.announcer.relay.snapshot)
        claims = self.claims.problems() if self.claims else ()
        of_forwarder = forwarder.problems() if forwarder else ()
        uncounted = (self.connections.fault,) if self.connections.fault else ()
        own = (
            *claims,
            *self.vips.problems(),
            *node_problems(self.health),
            *of_forwarder,
            *uncounted,
            *self.instances.problems,
            *self.nat.problems(),
            *self.deny_list.problems(),
            *([self.metrics_problem] if self.metrics_problem else ()),
        )
        return Inputs(
            members=membership.view.members,
            seen=membership.received.seen,
            obstacles=membership.obstacles,
            healthy=frozenset(name for name, health in self.health.items() if health.healthy),
            operator=self.operator.state,
            orders=self.operator.orders.orders,
            forwarding=self.ready,
            faults=(*self._file_problems(), *membership.problems(), *leaks, *own),
            path_faults=self.answers.faults,
            advertised=self.announcer.advertised,
            former_pool_used=self.nat.former_in_use(),
        )

    # The loop

    async def _plan_forever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(COALESCE_S)
            self._wake.clear()
            # With a thousand members each step takes milliseconds: timers and sockets have their turn in between.
            relay = self.announcer.relay
            self._session_log.observe(relay.snapshot, relay.connected)
            self.membership.read(relay.snapshot, relay.connected)
            await asyncio.sleep(0)
            self.membership.observe(time.monotonic())
            if self.forwarder is not None:
                self.forwarder.follow(self.membership.ends)
                self.forwarder.pass_over(self.membership.view.silent, self.membership.view.doubted)
            self.nat.observe(time.monotonic())
            await asyncio.sleep(0)
            self.operator.orders.expire(time.time())
            if self.membership_known:
                self._make_plan(time.monotonic())

    def _make_plan(self, now: float, requested: bool = False) -> None:
        """Make the next plan and carry it out, if an input has changed or the plan's time is over."""
        inputs, before, wall = self._inputs(), self.plan, time.time()
        if self.forwarder is not None and self._is_starting(self.forwarder):
            # At the start tables and XDP come first, as if this node forwarded: it will by then. Nothing is announced
            # until it is known: else an agent that starts again would withdraw what the one before announced.
            self.forwarder.want(self.planner.first_tables(inputs, now, wall))
            return
        if new := self.planner.follow(inputs, now, wall):
            log_changes(before, new)
            self._publish()
            self._save()
            self.announcer.want(new)
            if requested or not self._hangs():
                self.announcer.send()
            if self.forwarder is not None and self.membership_known:
                self.forwarder.want(new.tables)
        if self.announcer.observe_exports():
            self._save()

    def _is_starting(self, forwarder: Forwarder) -> bool:
        """Whether it is not known yet if this node forwards: tables and XDP come first, then the VIPs; or what for."""
        return not forwarder.tried or (forwarder.ready and not (self.vips.are_put and self.nat.former_known))

    def _hangs(self) -> bool:
        """Whether to be silent, so that the relay's dead-man acts. Only what is requested is announced nevertheless."""
        return self.is_stuck(time.monotonic())

    def _publish(self) -> None:
        """Publish what this node serves: by the plan, or before the first plan as its condition allows.

        With tables of an earlier agent it goes on as before. Without them it takes no new flows yet.
        """
        if not self.nat.publish_former():
            return
        if self.plan is not None:
            self.publisher.publish(self.plan, self.ready, self.forwarder)
            return
        forwards = self.forwarder is None or self.forwarder.took_over
        shares = self.planner.first_shares(replace(self._inputs(), forwarding=forwards))
        self.publisher.publish_first(shares, forwards, self.forwarder)

    def _save(self) -> None:
        memory, operator = self.planner.memory, self.operator.state
        state = SavedState(
            healthy=frozenset(name for name, health in self.health.items() if health.healthy),
            admin_state=operator.admin_state,
            announced_once=memory.announced_once,
            vips=self.vips.retiring.union(self.config.vips),
            denied=self.deny_list.added,
            use=memory.epoch_switch.use if memory.epoch_switch else None,
            boot=self.membership.boot,
            drained=operator.drained,
            weights=tuple(sorted(operator.weights.items())),
            flaps=memory.decisions.flaps,
            backend_orders=self.nat.orders,
            export_statuses=self.announcer.exports.entries,
        )
        self._files.save(state, self.membership.view.members, self.membership_known)

    # Tasks

    async def run(self, ending: asyncio.Future[bool]) -> None:
        """Run until `ending` is done. Then leave the routes to the relay if its result is True: none follows."""
        uplinks = self.config.node.names if self.forwarder else None
        forever = [
            self.announcer.relay.run(),
            *self.membership.tasks(),
            self._plan_forever(),
            *self._files.tasks(),
            self.connections.run(),
            self._heartbeat_forever(),
            self.vips.keep(self._wake.set),
            self.answers.run(),
            self.vips.retire(lambda vips: self.plan is not None and self.announcer.withdrawn(vips)),
            *checks(self.config.services, self.health, self._wake.set, uplinks),
            self.instances.run(),
            *(self.forwarder.tasks() if self.forwarder else ()),
            *(self.claims.tasks() if self.claims else ()),
            *self.nat.tasks(),
        ]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one) for one in forever]
            if await ending:
                await self.leave()
            for task in running:
                task.cancel()
        self._files.flush()
        self._netlink.close()

    async def _heartbeat_forever(self) -> None:
        """Send heartbeats, and wake the loop for changes that come with time alone or without an event.

        Heartbeats go on while large tables are written, but not when that hangs.
        """
        while True:
            if not self._hangs():
                self.announcer.send()
                self._publish()
            self._wake.set()
            await sleep_until_next(TICK_S)

    async def leave(self) -> None:
        """Publish that this node takes no new flows, and leave its routes to the relay."""
        self.publisher.leave(self.plan, self.ready)
        await self.announcer.leave()
        await self.nat.leave()
