# SPDX-License-Identifier: Apache-2.0
"""Requests about this node as a member of its services, and about the backends of NAT services.

POST /backend       ?service=NAME (without it, all) &drained=yes|no &weight=NUMBER|PERCENT%|nominal
                    ?service=NAME &backend=ADDRESS:PORT &drained=yes|no: a backend, on all nodes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.config.schema import Config
from agent.control.http_server import Request, Response, Routes, json_response
from agent.errors import AgentError
from agent.model import Share
from agent.node.backend_keeper import BackendKeeper
from agent.node.condition import effective_weight
from agent.node.operator import Operator


def routes(
    config: Config,
    operator: Operator,
    shares: Callable[[], Mapping[str, Share]],
    backends: BackendKeeper | None,
) -> Routes:
    """Return the handlers by method and path. `shares` returns this node's share of each service, by name; `backends`
    is None without NAT."""

    def handle(request: Request) -> Response:
        if "backend" in request.query:
            return _drain_backend(backends, request.query)
        return _set_backend(config, operator, shares, request.query)

    return {("POST", "/backend"): handle}


def _drain_backend(backends: BackendKeeper | None, query: Mapping[str, str]) -> Response:
    if backends is None:
        raise AgentError("this node has no service of mode nat, whose backends could be drained")
    if query.get("drained") not in ("yes", "no"):
        raise AgentError("drained is not yes or no")
    service, backend = query.get("service", ""), query["backend"]
    backends.set_drained(service, backend, query["drained"] == "yes")
    found = next(one for one in backends.status(service) if one["address"] == backend)
    return json_response({"ok": True, "backend": {"service": service, **found}})


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
