# SPDX-License-Identifier: Apache-2.0
"""The node's state as JSON, for `lbctl status`. Reads and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from agent.address import Address, Network, endpoint, tag_of
from agent.announcing import routes
from agent.config.epoch import end_of_previous
from agent.config.schema import Config
from agent.config.service import ServiceConfig
from agent.connections.monitor import Held
from agent.control.bgp_session import down_text, sessions
from agent.control.connections import total
from agent.control.membership_status import echo_status, membership_status
from agent.forwarding.map_writer import key_of
from agent.health.rise_fall import Health
from agent.instances.keeper import InstanceKeeper
from agent.model import NAT_KEY, NAT_TABLE, Announcement, Member, Share, State
from agent.node.backend_keeper import BackendKeeper
from agent.node.candidates import candidates, takers
from agent.node.claim_keeper import ClaimKeeper
from agent.node.forwarder import Forwarder
from agent.node.membership import Membership
from agent.node.plan import ThisNode
from agent.node.session_hand_over import SessionHandOver
from agent.problem import ProblemLine
from agent.sessions.keeper import SessionKeeper
from agent.table.epoch import EpochSwitch, incompatible_members
from bgp.relay.client import RelayClient


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the status shows."""

    node: ThisNode
    admin_state: State
    epoch_switch: EpochSwitch | None
    ready: bool
    """This node forwards, and knows the members."""
    problems: Sequence[ProblemLine]
    generation: int
    refused: str | None
    settled: bool
    speaker_problem: ProblemLine | None
    members: tuple[Member, ...]
    membership: Membership
    shares: Mapping[str, Share]
    """This node's own, by service name."""
    health: Mapping[str, Health]
    announcements: Mapping[Address, Announcement]
    pools: Mapping[Network, Announcement]
    forwarder: Forwarder | None
    """None where the data path is off."""
    relay: RelayClient
    held: Held | None
    """The last count of the connections; None before the first."""
    instances: InstanceKeeper
    claims: ClaimKeeper | None
    """None without a data path, and where `table.claims` is off."""
    sessions: SessionKeeper | None
    former_elsewhere: Sequence[IPv4Address]
    """The other nodes that have sessions with addresses of the former pool of NAT."""
    backends: BackendKeeper | None
    hand_overs: SessionHandOver | None
    """All three None without NAT."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.node.config


def status(state: NodeState) -> dict[str, Any]:
    """Return the whole state of this node, and its view of the other members."""
    now, forwarder = time.monotonic(), state.forwarder
    counters = forwarder.datapath.maps.counters.read() if forwarder else {}
    return {
        "node": _node(state),
        "fault": forwarder.fault if forwarder else None,
        "problems": list(state.problems),
        "config": {
            "generation": state.generation,
            "refused": state.refused,
            "settled": state.settled,
            "speaker": state.speaker_problem,
        },
        "ready": state.ready,
        "tables_written": forwarder is None or forwarder.written,
        "xdp": _xdp(state, counters.get(0, {})),
        "egress": {
            "interfaces": forwarder.egress_filter.interfaces if forwarder else [],
            "errors": forwarder.egress_filter.errors if forwarder else [],
        },
        "vips": _announced(state, "vip", state.announcements),
        "pools": _announced(state, "pool", state.pools),
        "connections": _connections(state, now),
        "sessions": state.sessions.summary() if state.sessions else None,
        "nat": _nat(state),
        "hand_over": state.hand_overs.counters if state.hand_overs else None,
        "services": [_service(state, service, counters) for service in state.config.services],
        "members": [_member(state, member, now) for member in state.members],
        "membership": membership_status(state.membership),
        "claims": _claims(state.claims) if state.claims else None,
        "bgp": _bgp(state.relay, now),
    }


def _claims(claims: ClaimKeeper) -> dict[str, Any]:
    """Return how many rows this node and the others claim, and which services have rows with few places left."""
    return {
        "given": claims.given,
        "taken": {str(address): rows for address, rows in sorted(claims.taken().items())},
        "full": claims.full_rows,
        "nearly_full": claims.nearly_full_rows,
    }


def _node(state: NodeState) -> dict[str, Any]:
    switch, node = state.epoch_switch, state.node
    return {
        "address": str(node.address),
        "tag": tag_of(node.address),
        "epoch": switch.use.first if switch else node.epochs[0],
        "epochs": node.epochs,
        "next_epoch": switch.next.first if switch and switch.next else None,
        "end_of_previous": end_of_previous(state.config) if len(node.epochs) > 1 else None,
        "cluster": state.config.cluster,
        "state": state.admin_state,
        "version": state.membership.version,
    }


def _xdp(state: NodeState, counters: dict[str, int]) -> dict[str, Any]:
    datapath = state.forwarder.datapath if state.forwarder else None
    return {
        "mode": (datapath.mode or "detached") if datapath else "off",
        "attached": bool(datapath and datapath.attached()),
        "fallback_reason": datapath.fallback_reason if datapath else None,
        "interface": ", ".join(state.config.node.names),
        "counters": counters,
    }


def _nat(state: NodeState) -> dict[str, Any] | None:
    """Return the counters of packets to the pool whose session is not on this node: they are of no known service; and
    what is left of the former pool."""
    forwarder = state.forwarder
    if state.config.nat is None or forwarder is None:
        return None
    counters = forwarder.datapath.maps.counters.of_slot(forwarder.map_writer.slot(NAT_TABLE))
    former = state.sessions.former if state.sessions else None
    if former is None:
        return {"counters": counters, "former": None}
    shown = {"pools": list(map(str, former.pools)), "of": former.sessions, "sessions": former.count}
    if former.in_use is None:
        shown["sessions"] = None  # not counted yet
    shown["newest_s"] = former.newest_s
    return {"counters": counters, "former": {**shown, "elsewhere": list(map(str, state.former_elsewhere))}}


def _announced(state: NodeState, kind: str, ones: Mapping[Any, Announcement]) -> list[dict[str, Any]]:
    """Return for each VIP, or pool, whether it is wanted at routers, and whether some router has it."""
    snapshot = state.relay.snapshot
    known = snapshot if state.relay.connected and snapshot and not snapshot.silent else None
    advertised = known.advertised if known else frozenset()
    return [
        {
            kind: str(one),
            "wanted": a.wanted,
            "announced": routes.prefix_of(one) in advertised if known else None,
            "why": a.why,
        }
        for one, a in ones.items()
    ]


def _bgp(relay: RelayClient, now: float) -> dict[str, Any]:
    snapshot, peers = relay.snapshot, sessions(relay, now)
    return {
        "relay": "connected" if relay.connected else relay.error,
        "error": snapshot.error if snapshot else None,
        "deadman": bool(snapshot and snapshot.deadman),
        "held": bool(snapshot and snapshot.held),
        "peers": peers,
        "down": [f"{peer['address']} {down_text(peer)}" for peer in peers if peer["state"] == "down"],
    }


def _connections(state: NodeState, now: float) -> dict[str, Any] | None:
    if state.held is None:
        return None
    return {"held": total(state.config.services, state.held), "age_s": round(now - state.held.at, 1)}


def _service(state: NodeState, service: ServiceConfig, counters: dict[int, dict[str, int]]) -> dict[str, Any]:
    share, health = state.shares[service.name], state.health[service.name]
    map_writer = state.forwarder.map_writer if state.forwarder else None
    found = candidates(service.key, state.members)
    owners = candidates(NAT_KEY, state.members) if service.mode == "nat" else found
    return {
        "name": service.name,
        "vip": str(service.vip),
        "endpoint": endpoint(service.vip, service.port),
        "affinity": service.affinity,
        "forward": service.forward,
        "hash": service.hash,
        "protocol": service.protocol,
        "port": service.port,
        "state": share.state,
        "healthy": health.healthy,
        "why": health.why,
        "weight": share.weight,
        "effective": share.effective,
        "digest": map_writer.digest(service.name) if map_writer else "",
        "mss": state.forwarder.egress_filter.limits.get(key_of(service)) if state.forwarder else None,
        "counters": counters.get(map_writer.slot(service.name), {}) if map_writer else {},
        "connections": state.held.count(service.key) if state.held else None,
        "when_unhealthy": service.when_unhealthy,
        "instances": state.instances.status(service.name),
        "backends": state.backends.status(service.name) if state.backends and service.mode == "nat" else None,
        "taken": bool(takers(found)),
        "local_clients": local_clients(service, share, health),
        "members": [
            {"address": str(c.address), "state": c.state, "weight": c.weight, "effective": c.effective} for c in owners
        ],
    }


def local_clients(service: ServiceConfig, share: Share, health: Health) -> str | None:
    """Return what clients on this node itself miss; None while its own server takes new connections.

    The VIP is on lo, so the kernel connects them to this node's server, whatever the tables hold.
    """
    if service.mode == "nat" or (health.healthy and share.state is State.UP):
        return None
    condition = share.state if health.healthy else "unhealthy"
    only = f"clients on this node itself reach {service.vip} at its own server only"
    return f"{only}, which is {condition}: the VIP is on lo"


def _member(state: NodeState, member: Member, now: float) -> dict[str, Any]:
    names = {service.key: service.name for service in state.config.services}
    own = member.address == state.node.address
    writer = state.forwarder.map_writer if state.forwarder else None
    changed, why = max((member.since, member.why), (member.changed, member.change))
    return {
        "address": str(member.address),
        "tag": member.tag,
        "state": member.state,
        "epoch": member.epoch,
        "epochs": member.epochs,
        "same_epoch": not incompatible_members(state.node.epochs, [member]),
        "has_new_epoch": state.node.epochs[0] in member.supports,
        "reachable": own
        or writer is None
        or writer.nodes.reaches([writer.nodes.target(member.address, member.address6)]),
        "version": state.membership.version if own else member.version,
        "boot": f"{state.membership.boot if own else member.boot:016x}",
        "silent_s": None if member.silent_since is None else round(now - member.silent_since, 1),
        "echo": None if own else echo_status(state.membership, member.address),
        "services": {
            name: {"state": share.state, "weight": share.weight, "effective": share.effective}
            for key, name in names.items()
            if (share := member.share(key))
        },
        "since_s": round(now - changed, 1) if changed else None,
        "why": why,
    }
