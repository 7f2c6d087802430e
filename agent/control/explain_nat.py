# SPDX-License-Identifier: Apache-2.0
"""`lbctl explain` for NAT: a flow of a NAT service, or what its backend sees as the client. Changes nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from agent.control import explain as dsr
from agent.control.explain import Forwarding, chains_of, denied_by, parse, service_of
from agent.control.session import Sessions, nat_row, session_of, slot_at
from agent.forwarding.trace_step import nat_event
from agent.model import NAT_TABLE
from bpf.layout.counter import Counter
from bpf.layout.nat import row_of_slot
from bpf.maps.session_map import now_tick
from bpf.reference.pick import WHY, Arrival, Decision, NodeState, Socket, pick

_OF_BACKEND = {Counter.FORWARD_BACKEND: Counter.FORWARD_CLIENT, Counter.REPLY_RESET: Counter.DROP_NAT_FOREIGN}
"""What is counted for a backend's packet instead of a client's."""


def explain(node: Forwarding, sessions: Sessions, text: str, now_ns: int) -> dict[str, Any]:
    """Return the row and chain of a flow or of a session, each node's decision, and the session if it is here.

    The text is a flow of any service, a slot or a NAT endpoint; `now_ns` is CLOCK_MONOTONIC. Raises AgentError if it is
    none of them, or there is no table.
    """
    nat = node.config.nat
    text = text.strip()
    slot = slot_at(text, node.config.pools, node.config.session_slots) if nat is not None else None
    flow = parse(text) if slot is None else None
    service = service_of(node.config, flow) if flow else None
    if nat is None or (service and service.mode != "nat"):
        return dsr.explain(node, text, now_ns)
    rows = {epoch: nat_row(epoch, flow) if flow else row_of_slot(slot or 0) for epoch in node.epochs}
    chains = chains_of(node, NAT_TABLE, rows, now_ns)
    found = session_of(sessions, text) if sessions.keeper else None
    session = found.describe(now_tick(), sessions.names()) if found else None
    udp = flow is not None and flow.protocol == "udp"
    return {
        "flow": str(flow) if flow else text,
        "service": service.name if service else session["service"] if session else None,
        "forward": nat.forward,
        "denied": denied_by(node, flow) if flow else None,
        **chains.report(),
        "epochs": [
            {"epoch": epoch.number, "in_use": i == 0, "row": row, "chain": [str(address) for address in chain]}
            for i, (epoch, row, chain) in enumerate(chains.epochs)
        ],
        "slot": slot if flow is None else session["slot"] if session else None,
        "session": session,
        "nodes": [
            {"node": str(one), **decisions(state, flow is not None, udp)} for one, state in chains.states.items()
        ],
    }


def decisions(state: NodeState[IPv4Address], from_client: bool, udp: bool) -> dict[str, str]:
    """Return a node's decisions for packets of a session that it holds, and of one that it does not hold.

    A client may open one (`syn`), a backend may not.
    """
    held = replace(state, socket=Socket.CONNECTION)
    opens = Arrival[IPv4Address](opens=True, udp=udp)
    later = opens if from_client and udp else Arrival[IPv4Address](opens=False)
    found = {"syn": _text(pick(state, opens), from_client)} if from_client else {}
    return found | {
        "held": _text(pick(held, later), from_client, holds=True),
        "not_held": _text(pick(state, later), from_client),
    }


def _text(decision: Decision[IPv4Address], from_client: bool, holds: bool = False) -> str:
    """Return what becomes of a packet, and why, by the counter that counts it; bpf/reference/nat.py has the rules."""
    event, why = decision.event, WHY[decision.event]
    if decision.to is not None:
        return f"forward to {decision.to} (hop {decision.hop})"
    after = nat_event(event, holds)
    if after is not event:
        why = "no node is left to try" if after is Counter.REPLY_RESET else "a new session is made here"
        why = "its session is here" if holds else why
    counted = after if from_client else _OF_BACKEND.get(after, after)
    return f"{counted.name.lower()}: {why}"
