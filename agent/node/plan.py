# SPDX-License-Identifier: Apache-2.0
"""The plan: from all that a node observes to all that it wants in the kernel, at the routers and in its state file.

Pure, and the one place where these decisions meet. agent.py gathers the inputs and sends the routes, forwarder.py
writes the tables. Each decision has a module of its own: condition.py (this node's shares, and what it may announce),
capacity.py (which members fit), candidates.py (what tables are built from), announcing/decide.py (orders and
hold-down), table/epoch.py (which epoch new flows use) and membership/conflict.py.

A plan is made from the inputs and from the plan before: `Memory` is what the next one needs. So a recorded sequence of
inputs gives the same plans again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from agent.address import Address, Announced, Network
from agent.announcing import routes
from agent.announcing.decide import Decisions
from agent.announcing.order import Order
from agent.config.schema import Config
from agent.forwarding.answer_path import PathFault
from agent.membership import identity
from agent.membership.conflict import Conflicts, Observed
from agent.membership.digest import member_digest
from agent.membership.obstacle import Obstacle
from agent.membership.received import SeenIdentity
from agent.model import Announcement, Candidate, Member, Method, Share, State
from agent.node import capacity
from agent.node.candidates import Candidates, in_order
from agent.node.condition import Condition, announcement, own_shares, pool_announcement
from agent.problem import Problem, ProblemLine
from agent.table import epoch
from agent.table.epoch import EpochSwitch, incompatible_members
from bgp.relay.protocol import DesiredRoutes

OTHER_EPOCH = Problem(
    "{node} has epoch {other}, this node {own}, so their tables differ",
    "compare `table`, and `affinity` and `hash` of the services, on both; install the same release",
    "The epoch is a number over all that decides a row. While nodes have no common one, each may send a packet to "
    "another owner: connections are reset. `lbctl check` is critical. "
    "[Operating](operating.md#change-a-key-or-the-table) has the steps that change a table without this.",
)


@dataclass(frozen=True, slots=True)
class ThisNode:
    """What does not change while an agent runs."""

    config: Config
    address: IPv4Address
    address6: IPv6Address | None
    """This node's end of tunnels over IPv6."""
    next_hop6: IPv6Address | None
    """The next hop of routes to IPv6 VIPs; None if the interface has no IPv6 address."""
    epochs: tuple[int, ...]
    """The epochs that this node supports, the preferred one first."""
    start: int = 0
    """When this agent started, in seconds since 1970, as its identity has it."""


@dataclass(frozen=True, slots=True)
class OperatorState:
    """What the operator wants of this node, apart from orders for VIPs."""

    admin_state: State = State.UP
    """`up`, `draining` or `left`."""
    drained: frozenset[str] = frozenset()
    """The services that take no new connections here, by name."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """The effective weights that are lower than the nominal ones, by service name."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a plan is made of; cheap to compare, since what is unchanged is the same object."""

    members: tuple[Member, ...] = ()
    """The view: all other nodes, by address."""
    seen: tuple[SeenIdentity, ...] = ()
    """The identities that routers advertise, accepted or not."""
    obstacles: tuple[Obstacle, ...] = ()
    """Why nodes that are named are no members."""
    healthy: frozenset[str] = frozenset()
    """The names of the services that are."""
    operator: OperatorState = field(default_factory=OperatorState)
    orders: frozenset[Order] = frozenset()
    forwarding: bool = False
    """XDP is attached and the tables are written (always true where the data path is off by configuration)."""
    faults: tuple[ProblemLine, ...] = ()
    """The problems that other modules found."""
    path_faults: tuple[PathFault, ...] = ()
    """What is wrong with this node's path to and from clients."""
    advertised: frozenset[str] = frozenset()
    """The prefixes that are in some peer's adj-rib-out, of a session that is up."""
    former_pool_used: bool = False
    """Whether any node has sessions with addresses of the former pool of NAT."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What follows from the members alone."""

    others: tuple[Member, ...] = ()
    own: Member | None = None
    members: tuple[Member, ...] = ()
    """All of them, this node included, by address."""
    announcers: tuple[str, ...] = ()
    """The identity prefixes of those that announce a VIP (bgp/relay/quorum.py)."""
    problems: tuple[ProblemLine, ...] = ()
    digest: int = 0
    """Of the view without lost members, in 32 bits: equal on nodes that agree. A node that joined later has never known
    those that are lost."""
    _prefixes: Mapping[int, tuple[Member, str]] = field(default_factory=dict, compare=False)
    """By the member's object: a thousand prefixes are not made again because one member changed."""
    _digests: Mapping[int, tuple[Member, int]] = field(default_factory=dict, compare=False)
    """The digests of members, likewise."""

    def after(self, node: ThisNode, others: tuple[Member, ...], own: Member) -> Cluster:
        """Return the cluster of these members; this one if they are the same."""
        if others is self.others and own == self.own:
            return self
        members = in_order(others, own)
        problems = tuple(
            OTHER_EPOCH.line(node=m.address, other=f"{m.epoch:#x}", own=f"{node.epochs[0]:#x}")
            for m in incompatible_members(node.epochs, members)
        )
        prefixes = {
            id(m): self._prefixes.get(id(m)) or (m, identity.node_prefix(node.config, m.address))
            for m in members
            if identity.announces(m)
        }
        digests = {id(m): self._digests.get(id(m)) or (m, member_digest(m)) for m in members if not m.lost}
        digest = sum(one for _, one in digests.values()) & 0xFFFFFFFF
        announcers = tuple(prefix for _, prefix in prefixes.values())
        return Cluster(others, own, members, announcers, problems, digest, prefixes, digests)


@dataclass(frozen=True, slots=True)
class Own:
    """The routes that this node wants announced, and what they were made of."""

    vips: Mapping[Address, Method | None] = field(default_factory=dict)
    """The VIPs to announce, each with its drain's method."""
    pools: frozenset[Network] = frozenset()
    """The pools of NAT to announce."""
    routes: DesiredRoutes = field(default_factory=DesiredRoutes)

    def after(self, node: ThisNode, vips: Mapping[Address, Method | None], pools: Collection[Network]) -> Own:
        """Return the routes for these VIPs and pools; those if they are the same."""
        if vips == self.vips and frozenset(pools) == self.pools and self.routes.desired:
            return self
        live, fallback = routes.desired_routes(
            node.config, node.address, node.address6, node.next_hop6, node.start, vips, pools
        )
        return Own(vips, frozenset(pools), DesiredRoutes(tuple(live), tuple(fallback)))


@dataclass(frozen=True, slots=True)
class Memory:
    """What a plan needs of the one before it."""

    candidates: Candidates
    own: Own = field(default_factory=Own)
    cluster: Cluster = field(default_factory=Cluster)
    decisions: Decisions = field(default_factory=Decisions)
    epoch_switch: EpochSwitch | None = None
    """None before the first plan, if neither the kernel nor the state file knows which epoch was in use."""
    announced_once: frozenset[Address] = frozenset()
    """The VIPs that this node has announced since their services became healthy for the first time."""
    conflicts: Conflicts = field(default_factory=Conflicts)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the kernel must forward by. forwarder.py writes it."""

    candidates: Mapping[str, tuple[Candidate, ...]]
    """By service name, and those of the table of sessions; equal ones are one object."""
    up: Mapping[str, bool]
    """Whether this node takes new flows, by service name."""
    ends: Mapping[IPv4Address, IPv6Address | None]
    """Each node's IPv6 end of tunnels."""
    epoch_switch: EpochSwitch


@dataclass(frozen=True, slots=True)
class Plan:
    """What this node wants, until an input changes or `next_at` has come."""

    tables: Tables
    shares: Mapping[str, Share]
    """This node's own, by service (`service_key`), and of the sessions."""
    published: Mapping[str, Share]
    """The same as this node publishes them: a VIP is announced once some router has it."""
    desired: DesiredRoutes
    """The identity, the VIPs and the pools, for the relay."""
    pools: Mapping[Network, Announcement]
    """The decision for each pool of NAT."""
    problems: tuple[ProblemLine, ...]
    """One line each, with the next step."""
    memory: Memory
    next_at: float
    """When time alone may change the plan: CLOCK_MONOTONIC seconds."""

    @property
    def members(self) -> tuple[Member, ...]:
        """All nodes, this one included, by address."""
        return self.memory.cluster.members

    @property
    def announcements(self) -> Mapping[Address, Announcement]:
        """The decision for each VIP."""
        return self.memory.decisions.announcements

    @property
    def announced(self) -> Mapping[Announced, Announcement]:
        """The decisions for VIPs and pools."""
        return dict[Announced, Announcement]([*self.announcements.items(), *self.pools.items()])


def plan(node: ThisNode, inputs: Inputs, before: Memory, now: float, wall: float) -> Plan:
    """Return the plan for these inputs. `now` is CLOCK_MONOTONIC seconds, `wall` seconds since 1970."""
    config, keys = node.config, before.candidates.services
    condition = condition_of(node, inputs, before)
    by_name = own_shares(config, condition)
    shares = {keys[name]: share for name, share in by_name.items()}
    fitting, excess = capacity.fitting(inputs.members, node.address)
    candidates = before.candidates.after(fitting, own_member(node, {} if node.address in excess else shares))
    elsewhere = {vip for vip in condition.blocked if _served_elsewhere(config, vip, inputs.members)}
    allowed = {vip: announcement(config, vip, condition, candidates.unserved, elsewhere) for vip in config.vips}
    decisions = before.decisions.after(allowed, inputs.orders, now, wall)
    wanted = {vip: a.method for vip, a in decisions.announcements.items() if a.wanted}
    announced = {keys[s.name] for s in config.services if s.vip in wanted}
    shares = {service: replace(share, announced=service in announced) for service, share in shares.items()}
    cluster = before.cluster.after(node, inputs.members, own_member(node, shares))
    wanted_epochs = epoch.choose(node.epochs, cluster.members)
    epoch_switch = (before.epoch_switch or EpochSwitch(wanted_epochs)).after(wanted_epochs, now)
    conflicts = before.conflicts.after(_observed(node, inputs), config, now)
    differs = epoch_switch.use.first != node.epochs[0]
    used = inputs.former_pool_used or differs
    pools = {
        pool: pool_announcement(config, pool, condition, elsewhere, former_used=used, nodes_differ=differs)
        for pool in config.pool_prefixes
    }
    own = before.own.after(node, wanted, [pool for pool, one in pools.items() if one.wanted])
    announced_once = before.announced_once | wanted.keys()
    memory = Memory(candidates, own, cluster, decisions, epoch_switch, announced_once, conflicts)
    problems = {*cluster.problems, *conflicts.problems(now), *inputs.faults, *capacity.problem(excess)}
    problems |= {fault.line for fault in inputs.path_faults}
    # A switch of epochs has several steps: whether there is another, the next plan decides.
    stepped = now if epoch_switch != before.epoch_switch else float("inf")
    return Plan(
        tables=Tables(
            candidates.by_service,
            {name: name in by_name and by_name[name].effective > 0 for name in keys},
            candidates.ends,
            epoch_switch,
        ),
        shares=shares,
        published=_published(node, shares, inputs.advertised),
        desired=replace(own.routes, announcers=cluster.announcers),
        pools=pools,
        problems=tuple(sorted(problems)),
        memory=memory,
        next_at=min(decisions.next_at(inputs.orders, now, wall), epoch_switch.next_at, conflicts.next_at(now), stepped),
    )


def condition_of(node: ThisNode, inputs: Inputs, before: Memory) -> Condition:
    """Return this node's condition."""
    operator = inputs.operator
    return Condition(
        inputs.forwarding,
        inputs.healthy,
        operator.admin_state,
        before.announced_once,
        operator.drained,
        operator.weights,
        node.next_hop6 is not None,
        {vip: fault.cause for fault in inputs.path_faults if fault.blocks for vip in fault.vips},
    )


def own_member(node: ThisNode, shares: Mapping[str, Share]) -> Member:
    """Return this node as a member; `shares` by service."""
    return Member(node.address, node.epochs, shares, False, 0.0, "this node", node.address6)


def _served_elsewhere(config: Config, vip: Address, others: Iterable[Member]) -> bool:
    """Return whether some node that answers this one announces a VIP and takes new flows for it. One whose own path is
    lost takes none, so where all have lost it, all announce."""
    keys = [service.key for service in config.services if service.vip == vip]
    shares = (one.share(key) for one in others if not one.lost and one.silent_since is None for key in keys)
    return any(share is not None and share.announced and share.effective > 0 for share in shares)


def _published(node: ThisNode, shares: Mapping[str, Share], advertised: frozenset[str]) -> dict[str, Share]:
    announced = {s.key for s in node.config.services if routes.prefix_of(s.vip) in advertised}
    return {service: replace(share, announced=service in announced) for service, share in shares.items()}


def _observed(node: ThisNode, inputs: Inputs) -> Observed:
    return Observed(inputs.seen, inputs.members, node.address, node.start, inputs.obstacles)
