# SPDX-License-Identifier: Apache-2.0
"""A flow's packets on their walk through the cluster now, for `lbctl explain --live`. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from agent.control.explain import parse, service_of
from agent.errors import AgentError
from agent.forwarding.trace_step import reason

if TYPE_CHECKING:
    from agent.config.schema import Config
    from agent.model import Flow
    from agent.node.tracer import Step

_PACKETS = {
    "tcp": {"a packet of an open connection": False, "a new connection (SYN)": True},
    "udp": {"a datagram": True},
}
"""The packets that differ on their walk, by protocol, and whether they open a flow."""


@dataclass(frozen=True, slots=True)
class Walking:
    """What leads a packet through the cluster."""

    config: Config
    own: IPv4Address
    nodes: Collection[IPv4Address]
    """All nodes, this one included."""
    walk: Callable[[Flow, bool, IPv4Address], Awaitable[Sequence[Step]]]
    """Returns the steps of a packet of a flow, which opens it or not, from the node that it reaches first."""


async def explain_live(cluster: Walking, text: str, at: str = "") -> dict[str, Any]:
    """Return the walk of each kind of packet of a flow that the router sends to the node `at`, by default this one.

    Raises AgentError if the text is not a flow, no service matches, or `at` is no node.
    """
    flow = parse(text)
    service = service_of(cluster.config, flow)
    ingress = _node(cluster, at) if at else cluster.own
    packets = _PACKETS[flow.protocol]
    walks = await asyncio.gather(*(cluster.walk(flow, opens, ingress) for opens in packets.values()))
    return {
        "flow": str(flow),
        "service": service.name,
        "walks": [
            {"packet": packet, "opens": opens, "steps": [_step(step) for step in steps]}
            for (packet, opens), steps in zip(packets.items(), walks, strict=True)
        ],
    }


def _node(cluster: Walking, text: str) -> IPv4Address:
    for node in cluster.nodes:
        if str(node) == text:
            return node
    raise AgentError(f"{text} is no node that this one knows; `lbctl status` lists them")


def _step(step: Step) -> dict[str, Any]:
    arrival = {"node": str(step.node), "hop": step.hop, "prev": str(step.prev) if step.prev else None}
    reply = step.reply
    if reply is None:
        return {**arrival, "answers": False}
    return {
        **arrival,
        "answers": True,
        "event": reply.event,
        "why": reason(reply.event),
        "to": str(reply.to) if reply.to else None,
        "socket": reply.socket,
        "up": reply.up,
        "grace": reply.grace,
        "epoch": reply.epoch or None,
        "chain": [str(node) for node in reply.chain],
        "unreachable": sorted(map(str, reply.unreachable)),
        "silent": sorted(map(str, reply.silent)),
        "awaited": sorted(map(str, reply.awaited)),
    }
