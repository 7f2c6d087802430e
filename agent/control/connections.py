# SPDX-License-Identifier: Apache-2.0
"""How many connections of clients this node holds, and in which of its places. Reads and changes nothing.

GET /connections    ?service=NAME (without it, all)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.address import endpoint
from agent.config.service import ServiceConfig
from agent.connections.held import NO_ROWS
from agent.connections.monitor import ConnectionMonitor, Held
from agent.control.http_server import Response, json_response
from agent.forwarding.map_writer import MapWriter
from bpf.layout.limits import CHAIN


async def connections(
    monitor: ConnectionMonitor,
    services: Sequence[ServiceConfig],
    map_writer: MapWriter | None,
    query: Mapping[str, str],
) -> Response:
    """Count the connections now, or return a count that is at most two seconds old. Raises AgentError."""
    name = query.get("service")
    chosen = [service for service in services if name in (None, service.name)]
    if not chosen:
        known = ", ".join(service.name for service in services)
        return json_response({"error": f"{name} is not a service of this node; it has {known}"}, 404)
    held = await monitor.read()
    found = [_service(service, held, map_writer) for service in chosen]
    return json_response({"held": total(chosen, held), "cpu_ms": round(held.cpu_s * 1e3, 1), "services": found})


def total(services: Iterable[ServiceConfig], held: Held) -> int:
    """Return the connections of all these services."""
    return sum(held.count(service.key) for service in services)


def _service(service: ServiceConfig, held: Held, map_writer: MapWriter | None) -> dict[str, Any]:
    """Return the connections of a service by this node's place in their rows, in the epoch of new flows.

    The places are None without a data path, and before it has rows.
    """
    count = held.count(service.key)
    owned = later = None
    if map_writer is not None and map_writer.use is not None:
        epoch = map_writer.use.first
        rows = held.rows.get(service.key, {}).get(epoch, NO_ROWS)
        places = map_writer.own_places(service.name, epoch, rows.rows)
        owned, later = (int(rows.counts[chosen].sum()) for chosen in (places == 0, (places > 0) & (places < CHAIN)))
    return {
        "name": service.name,
        "endpoint": endpoint(service.vip, service.port),
        "protocol": service.protocol,
        "held": count,
        "owned": owned,
        "later": later,
        "oldest_s": round(held.at - held.oldest[service.key]) if service.key in held.oldest else None,
        "not_in_chain": None if owned is None or later is None else count - owned - later,
    }
