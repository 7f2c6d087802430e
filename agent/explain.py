# SPDX-License-Identifier: Apache-2.0
"""Where a flow goes and why: the answer to `lbctl explain`. Computed from this node's table; reads, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from agent.errors import AgentError
from bpf.flow import flow_hash
from bpf.pick import Arrival, Decision, Here, Socket, pick

if TYPE_CHECKING:
    from agent.config import ServiceConfig
    from agent.daemon import Agent

_TUPLE = re.compile(r"(?P<protocol>tcp|udp)[\s,]+(?P<client>[\d.]+):(?P<sport>\d+)[\s,]+(?P<vip>[\d.]+):(?P<port>\d+)")


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow as a client makes it."""

    protocol: str
    client: IPv4Address
    client_port: int
    vip: IPv4Address
    vip_port: int

    def __str__(self) -> str:
        return f"{self.protocol} {self.client}:{self.client_port} {self.vip}:{self.vip_port}"


def parse(text: str) -> Flow:
    """Read `tcp CLIENT:PORT VIP:PORT`, also with commas. Raises AgentError."""
    found = _TUPLE.fullmatch(text.strip())
    if not found:
        raise AgentError(f"'{text}' is not a flow; write tcp,192.0.2.7:41000,10.99.0.1:443")
    try:
        flow = Flow(
            found["protocol"],
            IPv4Address(found["client"]),
            int(found["sport"]),
            IPv4Address(found["vip"]),
            int(found["port"]),
        )
    except ValueError as error:
        raise AgentError(f"'{text}': {error}") from None
    for port in (flow.client_port, flow.vip_port):
        if not 1 <= port <= 65_535:
            raise AgentError(f"'{text}': port {port} is not in 1-65535")
    return flow


def explain(agent: Agent, flow: Flow) -> dict[str, Any]:
    """The flow's row and chain, and what each node would do with its packets when the router hands it one.

    Raises AgentError where there is no such service, or no table (yet, or because the data path is off).
    """
    service = _service(agent, flow)
    if agent.applier is None:
        raise AgentError("the data path is off (xdp.mode): whatever server the router picks keeps the flow")
    number = flow_hash(agent.config.hash_key, flow.client, flow.client_port, flow.vip, flow.vip_port)
    row = number & (agent.config.table.rows - 1)
    chain = agent.applier.chain(service.name, row)
    nodes = [member.address for member in agent.members()]
    return {
        "flow": str(flow),
        "service": service.name,
        "hash": number,
        "row": row,
        "chain": [str(address) for address in chain],
        "nodes": [{"node": str(node), **_at(node, chain, flow.protocol == "udp")} for node in nodes],
    }


def _service(agent: Agent, flow: Flow) -> ServiceConfig:
    same = [s for s in agent.config.services if (s.vip, s.protocol) == (flow.vip, flow.protocol)]
    for port in (flow.vip_port, "any"):
        for service in same:
            if service.port == port:
                return service
    known = ", ".join(f"{s.protocol} {s.vip}:{s.port}" for s in agent.config.services)
    raise AgentError(f"no service takes {flow.protocol} {flow.vip}:{flow.vip_port}; there is {known}")


def _at(node: IPv4Address, chain: Sequence[IPv4Address], udp: bool) -> dict[str, str]:
    """A node's answer to a first packet, and to a later one with and without its connection there."""
    opens, later = Arrival[IPv4Address](opens=True, udp=udp), Arrival[IPv4Address](opens=udp, udp=udp)
    return {
        "syn": _words(pick(Here(node, chain), opens)),
        "held": _words(pick(Here(node, chain, Socket.CONNECTION), later)),
        "not_held": _words(pick(Here(node, chain), later)),
    }


def _words(decision: Decision[IPv4Address]) -> str:
    if decision.to is not None:
        return f"forward to {decision.to} (hop {decision.hop})"
    return f"{decision.event.name.lower()}: {decision.why}"
