# SPDX-License-Identifier: Apache-2.0
"""Requests about this node as a member of its services.

POST /backend       ?service=NAME (without it, all) &drained=yes|no &weight=NUMBER|PERCENT%|nominal
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.control.http_server import Response, Routes, json_response
from agent.node.plan import effective_weight, own_share

if TYPE_CHECKING:
    from agent.node.agent import Agent


def routes(agent: Agent) -> Routes:
    """Return the handlers by method and path."""
    return {("POST", "/backend"): lambda request: _set_backend(agent, request.query)}


def _set_backend(agent: Agent, query: Mapping[str, str]) -> Response:
    name = query.get("service")
    services = [service for service in agent.config.services if name in (None, service.name)]
    if not services:
        known = ", ".join(service.name for service in agent.config.services)
        return json_response({"error": f"{name} is not a service of this node; it has {known}"}, 404)
    # All weights are checked before any is set.
    weights = {s.name: effective_weight(query["weight"], s.weight) for s in services} if "weight" in query else {}
    if "drained" in query:
        agent.set_backend([service.name for service in services], drained=query["drained"] == "yes")
    for service, weight in weights.items():
        agent.set_backend([service], weight=weight)
    shares = {service.name: own_share(service, agent.condition) for service in services}
    return json_response(
        {
            "ok": True,
            "services": [
                {"name": service, "state": share.state, "weight": share.weight, "effective": share.effective}
                for service, share in shares.items()
            ],
        }
    )
