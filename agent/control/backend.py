# SPDX-License-Identifier: Apache-2.0
"""Requests about this node as a member of its services.

POST /backend       ?service=NAME (without it, all) &drained=yes|no &weight=NUMBER|PERCENT%|nominal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.config.schema import Config
from agent.control.http_server import Response, Routes, json_response
from agent.model import Share
from agent.node.condition import effective_weight
from agent.node.operator import Operator


def routes(config: Config, operator: Operator, shares: Callable[[], Mapping[str, Share]]) -> Routes:
    """Return the handlers by method and path. `shares` returns this node's share of each service, by name."""
    return {("POST", "/backend"): lambda request: _set_backend(config, operator, shares, request.query)}


def _set_backend(
    config: Config, operator: Operator, shares: Callable[[], Mapping[str, Share]], query: Mapping[str, str]
) -> Response:
    name = query.get("service")
    services = [service for service in config.services if name in (None, service.name)]
    if not services:
        known = ", ".join(service.name for service in config.services)
        return json_response({"error": f"{name} is not a service of this node; it has {known}"}, 404)
    # All weights are checked before any is set.
    weights = {s.name: effective_weight(query["weight"], s.weight) for s in services} if "weight" in query else {}
    drained = query["drained"] == "yes" if "drained" in query else None
    operator.set_backend([service.name for service in services], drained, weights)
    now = shares()
    found = {service.name: now[service.name] for service in services}
    return json_response(
        {
            "ok": True,
            "services": [
                {"name": service, "state": share.state, "weight": share.weight, "effective": share.effective}
                for service, share in found.items()
            ],
        }
    )
