# SPDX-License-Identifier: Apache-2.0
"""The agent's state as JSON, for `lbctl status`. Reads the agent and changes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from agent.address import endpoint, tag_of
from agent.announcing import routes
from agent.config.service import ServiceConfig
from agent.forwarding.map_writer import key_of
from agent.membership import identity
from agent.model import Member
from agent.node.plan import candidates, own_share, takers
from agent.table.epoch import incompatible_members
from bgp.bfd.status import BfdStatus

if TYPE_CHECKING:
    from agent.node.agent import Agent


def status(agent: Agent) -> dict[str, Any]:
    """Return the whole state of this node, and its view of the other members."""
    now = time.monotonic()
    members = agent.members()
    counters = agent.datapath.maps.counters.read() if agent.datapath else {}
    return {
        "node": _node(agent),
        "fault": agent.fault,
        "problems": list(agent.problems.lines),
        "config": {"generation": agent.generation, "refused": agent.refused},
        "ready": agent.ready and agent.membership_known,
        "xdp": _xdp(agent, counters.get(0, {})),
        "clamp": {
            "interfaces": agent.mss_clamp.interfaces if agent.mss_clamp else [],
            "errors": agent.mss_clamp.errors if agent.mss_clamp else [],
        },
        "vips": _vips(agent),
        "services": [_service(agent, service, members, counters) for service in agent.config.services],
        "members": [_member(agent, member, now) for member in members],
        "bgp": _bgp(agent, now),
    }


def _node(agent: Agent) -> dict[str, Any]:
    switch = agent.epoch_switch
    return {
        "address": str(agent.interface.address),
        "tag": tag_of(agent.interface.address),
        "epoch": switch.use.first if switch else agent.epochs[0].number,
        "epochs": agent.epoch_numbers,
        "next_epoch": switch.next.first if switch and switch.next else None,
        "cluster": agent.config.cluster,
        "state": agent.admin_state,
        "version": agent.version.number,
    }


def _xdp(agent: Agent, counters: dict[str, int]) -> dict[str, Any]:
    datapath = agent.datapath
    return {
        "mode": (datapath.mode or "detached") if datapath else "off",
        "attached": bool(datapath and datapath.attached()),
        "fallback_reason": datapath.fallback_reason if datapath else None,
        "interface": ", ".join(agent.config.node.names),
        "counters": counters,
    }


def _vips(agent: Agent) -> list[dict[str, Any]]:
    snapshot = agent.relay.snapshot
    advertised = snapshot.advertised if snapshot and agent.relay.connected else frozenset()
    return [
        {"vip": str(vip), "wanted": a.wanted, "announced": routes.vip_prefix(vip) in advertised, "why": a.why}
        for vip, a in agent.announcements.items()
    ]


def _bgp(agent: Agent, now: float) -> dict[str, Any]:
    relay, snapshot = agent.relay, agent.relay.snapshot
    return {
        "relay": "connected" if relay.connected else relay.error,
        "error": snapshot.error if snapshot else None,
        "deadman": bool(snapshot and snapshot.deadman),
        "held": bool(snapshot and snapshot.held),
        "peers": [
            {
                "address": peer.address,
                "state": "up" if peer.up and relay.connected else "down",
                "bfd": _bfd(peer.bfd, now) if peer.bfd and relay.connected else None,
            }
            for peer in (snapshot.peers if snapshot else ())
        ],
    }


def _bfd(bfd: BfdStatus, now: float) -> dict[str, Any]:
    return {
        "state": bfd.state,
        "since_s": round(now - bfd.since, 1),
        "diagnostic": bfd.diagnostic,
        "interval_ms": bfd.interval_ms,
        "detection_ms": bfd.detection_ms,
        "error": bfd.error,
    }


def _service(
    agent: Agent, service: ServiceConfig, members: tuple[Member, ...], counters: dict[int, dict[str, int]]
) -> dict[str, Any]:
    share = own_share(service, agent.condition)
    health = agent.health[service.name]
    map_writer = agent.map_writer
    found = candidates(identity.service_id_of(service), members)
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
        "mss": agent.mss_clamp.limits.get(key_of(service)) if agent.mss_clamp else None,
        "counters": counters.get(map_writer.slot(service.name), {}) if map_writer else {},
        "when_unhealthy": service.when_unhealthy,
        "taken": bool(takers(found)),
        "members": [
            {"address": str(c.address), "state": c.state, "weight": c.weight, "effective": c.effective} for c in found
        ],
    }


def _member(agent: Agent, member: Member, now: float) -> dict[str, Any]:
    names = {identity.service_id_of(service): service.name for service in agent.config.services}
    own = member.address == agent.interface.address
    ends = member.address, member.address6
    changed, why = max((member.since, member.why), (member.changed, member.change))
    return {
        "address": str(member.address),
        "tag": member.tag,
        "state": member.state,
        "epoch": member.epoch,
        "epochs": member.epochs,
        "same_epoch": not incompatible_members(agent.epoch_numbers, [member]),
        "has_new_epoch": agent.epochs[0].number in member.supports,
        "reachable": own or agent.map_writer is None or agent.map_writer.reaches([agent.map_writer.target(*ends)]),
        "version": agent.version.number if own else member.version,
        "services": {
            name: {"state": share.state, "weight": share.weight, "effective": share.effective}
            for number, name in names.items()
            if (share := member.share(number))
        },
        "since_s": round(now - changed, 1) if changed else None,
        "why": why,
    }
