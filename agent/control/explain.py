# SPDX-License-Identifier: Apache-2.0
"""A flow's row, chain and each node's decision, for `lbctl explain`. Reads this node's table, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

from agent.address import endpoint
from agent.config.service import AFFINITIES
from agent.errors import AgentError
from agent.model import Flow
from bpf.reference.flow_hash import flow_hash
from bpf.reference.pick import Arrival, Decision, NodeState, Socket, join_rows, pick

if TYPE_CHECKING:
    from agent.address import Network
    from agent.config.schema import Config
    from agent.config.service import ServiceConfig
    from agent.forwarding.map_writer import MapWriter
    from agent.table.epoch import Epoch

_END = r"(?:\[(?P<{0}6>[0-9a-f:.]+)\]|(?P<{0}>[\d.]+)):(?P<{0}_port>\d+)"
_TUPLE = re.compile(rf"(?P<protocol>tcp|udp)[\s,]+{_END.format('client')}[\s,]+{_END.format('vip')}", re.IGNORECASE)


def parse(text: str) -> Flow:
    """Read `tcp CLIENT:PORT VIP:PORT`, also with commas; IPv6 addresses in brackets. Raises AgentError."""
    found = _TUPLE.fullmatch(text.strip())
    if not found:
        raise AgentError(
            f"'{text}' is not a flow; write tcp,192.0.2.7:41000,10.99.0.1:443 (an IPv6 address in brackets)"
        )
    try:
        flow = Flow(
            found["protocol"].lower(),
            ip_address(found["client"] or found["client6"]),
            int(found["client_port"]),
            ip_address(found["vip"] or found["vip6"]),
            int(found["vip_port"]),
        )
    except ValueError as error:
        raise AgentError(f"'{text}': {error}") from None
    if flow.client.version != flow.vip.version:
        raise AgentError(f"'{text}': an IPv{flow.client.version} client does not reach an IPv{flow.vip.version} VIP")
    for port in (flow.client_port, flow.vip_port):
        if not 1 <= port <= 65_535:
            raise AgentError(f"'{text}': port {port} is not in 1-65535")
    return flow


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What decides a flow's path."""

    config: Config
    epochs: Sequence[Epoch]
    map_writer: MapWriter | None
    """None where the data path is off."""
    nodes: Collection[IPv4Address]
    """All nodes, this one included."""
    denied: Collection[Network]


@dataclass(frozen=True, slots=True)
class Chains:
    """A row's chain in each epoch, that of new flows first, and what follows from them."""

    epochs: tuple[tuple[Epoch, int, list[IPv4Address]], ...]
    """Epoch, row and chain."""
    tried: tuple[IPv4Address, ...]
    states: Mapping[IPv4Address, NodeState[IPv4Address]]
    """What each node knows."""

    def report(self) -> dict[str, Any]:
        """Return the part of a response that is about rows and chains."""
        silent = next(iter(self.states.values())).silent
        return {
            "row": self.epochs[0][1],
            "chain": [str(address) for address in self.epochs[0][2]],
            "tried": [str(address) for address in self.tried],
            "silent": [str(address) for address in self.tried if address in silent],
        }


def explain(node: Forwarding, text: str, now_ns: int) -> dict[str, Any]:
    """Return a flow's row and chain, and each node's decision for a packet that the router sends to it.

    Nodes that are silent for this one count as silent for all. `now_ns` is CLOCK_MONOTONIC.
    Raises AgentError if the text is not a flow, no service matches, or there is no table (yet, or with xdp.mode off).
    """
    flow = parse(text)
    service = service_of(node.config, flow)
    hashes = {epoch: _hash(epoch, service, flow) for epoch in node.epochs}
    chains = chains_of(
        node, service.name, {epoch: number & (epoch.rows - 1) for epoch, number in hashes.items()}, now_ns
    )
    udp = flow.protocol == "udp"
    return {
        "flow": str(flow),
        "service": service.name,
        "affinity": service.affinity,
        "forward": service.forward,
        "denied": denied_by(node, flow),
        "hash": hashes[chains.epochs[0][0]],
        **chains.report(),
        "epochs": [
            {"epoch": e.number, "in_use": i == 0, "hash": hashes[e], "row": row, "chain": [str(a) for a in chain]}
            for i, (e, row, chain) in enumerate(chains.epochs)
        ],
        "nodes": [{"node": str(one), **_decisions(state, udp)} for one, state in chains.states.items()],
    }


def chains_of(node: Forwarding, table: str, rows: Mapping[Epoch, int], now_ns: int) -> Chains:
    """Return the chains of a table (a service's name) for one row in each epoch. Raises AgentError without a table."""
    if node.map_writer is None:
        raise AgentError("the data path is off (xdp.mode): the server that the router picks keeps the flow")
    use = node.map_writer.use
    if use is None:
        raise AgentError("there is no table yet: no router has announced the members")
    ordered = sorted(rows, key=lambda epoch: epoch.number != use.first)
    epochs = tuple((e, rows[e], node.map_writer.chain(table, e.number, rows[e])) for e in ordered)
    chains = [chain for _, _, chain in epochs]
    tried = join_rows(chains[0], chains[1] if len(chains) > 1 else None, use.alternating)
    silent, awaited = node.map_writer.nodes.silent, node.map_writer.nodes.awaited(now_ns)
    states = {one: NodeState(one, tried, silent=silent, awaited=awaited) for one in node.nodes}
    return Chains(epochs, tried, states)


def denied_by(node: Forwarding, flow: Flow) -> str | None:
    """Return the denied prefix that a flow's client is in; None if there is none."""
    return next((str(denied) for denied in node.denied if flow.client in denied), None)


def _hash(epoch: Epoch, service: ServiceConfig, flow: Flow) -> int:
    affinity = AFFINITIES[service.affinity]
    return flow_hash(epoch.key, flow.client, flow.client_port, flow.vip, flow.vip_port, affinity)


def service_of(config: Config, flow: Flow) -> ServiceConfig:
    """Return the service that a flow belongs to. Raises AgentError, with those that are known, if there is none."""
    same = [s for s in config.services if (s.vip, s.protocol) == (flow.vip, flow.protocol)]
    for port in (flow.vip_port, "any"):
        for service in same:
            if service.port == port:
                return service
    known = ", ".join(f"{s.protocol} {endpoint(s.vip, s.port)}" for s in config.services)
    raise AgentError(f"no service takes {flow.protocol} {endpoint(flow.vip, flow.vip_port)}; known: {known}")


def _decisions(state: NodeState[IPv4Address], udp: bool) -> dict[str, str]:
    """Return a node's decisions for a first packet, and for later ones whose connection it holds or does not hold."""
    opens, later = Arrival[IPv4Address](opens=True, udp=udp), Arrival[IPv4Address](opens=udp, udp=udp)
    return {
        "syn": _text(pick(state, opens)),
        "held": _text(pick(replace(state, socket=Socket.CONNECTION), later)),
        "not_held": _text(pick(state, later)),
    }


def _text(decision: Decision[IPv4Address]) -> str:
    if decision.to is not None:
        return f"forward to {decision.to} (hop {decision.hop})"
    return f"{decision.event.name.lower()}: {decision.why}"
