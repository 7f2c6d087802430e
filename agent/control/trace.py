# SPDX-License-Identifier: Apache-2.0
"""The request of `lbctl trace`: samples of packets to VIPs, with what the program did with each.

    GET /trace    without end, a line each   ?service= &client=PREFIX &event= &every= select, each alone or together

The first line is {"started_s": time}: from then on packets are sampled. Each other line has time_s (of the clock),
interface, length (of the frame), service, event, why, hop, and head: up to 128 bytes of the frame as it left the
program, in hex. Only root may ask: the frames are clients' data.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from agent.control.http_server import Request, Response, Routes, json_response
from agent.errors import AgentError
from agent.forwarding.packet_sampler import PacketSampler
from agent.forwarding.trace_step import reason
from bpf.layout.counter import DESCRIPTIONS, Counter
from bpf.layout.sampling import Sample, SampleFilter

MAX_EVERY: Final = 1_000_000
_NUMBER: Final = re.compile("[0-9]{1,7}")
SAMPLED: Final = tuple(c for c in Counter if not c.name.startswith(("RX", "SKIP", "PASS_OTHER", "PASS_NO_SERVICE")))
"""The events that end a packet; what is for no service is never sampled."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """What these requests need of the agent."""

    sampler: PacketSampler | None
    """None without a data path."""
    services: Mapping[int, str]
    """Names by slot."""


def routes(node: Tracing) -> Routes:
    """Return the handlers by method and path."""
    return {("GET", "/trace"): lambda request: _trace(node, request)}


def _trace(node: Tracing, request: Request) -> Response:
    if request.uid not in (0, os.geteuid()):
        return json_response({"error": "/trace: only root may see clients' packets; run lbctl as root"}, 403)
    if node.sampler is None:
        raise AgentError("this node has no data path (xdp.mode: off): the kernel gets all packets")
    node.sampler.require_free()
    return Response(200, lines=_lines(node, node.sampler, sample_filter(request.query, node.services)))


async def _lines(node: Tracing, sampler: PacketSampler, wanted: SampleFilter) -> AsyncGenerator[bytes, None]:
    boot = time.time() - time.monotonic()
    async with contextlib.aclosing(sampler.samples(wanted)) as batches:
        await anext(batches)
        yield json.dumps({"started_s": round(time.time(), 6)}).encode() + b"\n"
        async for samples in batches:
            for sample in samples:
                yield json.dumps(describe(sample, node.services, boot)).encode() + b"\n"


def sample_filter(query: Mapping[str, str], services: Mapping[int, str]) -> SampleFilter:
    """Read a request's filter. Raises AgentError, with what is possible instead."""
    slot = None
    if name := query.get("service"):
        slot = next((number for number, one in services.items() if one == name), None)
        if slot is None:
            raise AgentError(f"{name} is not a service of this node; it has {', '.join(sorted(services.values()))}")
    event = None
    if text := query.get("event"):
        event = next((one for one in SAMPLED if one.name.lower() == text), None)
        if event is None:
            raise AgentError(f"{text} is not an event of a packet; docs/counters.md lists them")
    try:
        client = ip_network(query["client"]) if "client" in query else None
    except ValueError as error:
        raise AgentError(f"client: {error}; write 192.0.2.7 or 192.0.2.0/24") from None
    every = query.get("every", "1")
    if not _NUMBER.fullmatch(every) or not 1 <= int(every) <= MAX_EVERY:
        raise AgentError(f"every: {every[:20]} is not in 1-{MAX_EVERY}")
    return SampleFilter(int(every), slot, event, client)


def describe(sample: Sample, services: Mapping[int, str], boot: float) -> dict[str, Any]:
    """Return a sample for JSON. `boot` is the clock's time, in seconds, at which CLOCK_MONOTONIC was 0."""
    event = sample.event.name.lower()
    try:
        interface = socket.if_indextoname(sample.ifindex)
    except OSError:
        interface = str(sample.ifindex)
    return {
        "time_s": round(boot + sample.time_ns / 1e9, 6),
        "interface": interface,
        "length": sample.length,
        "service": services.get(sample.slot),
        "event": event,
        "why": reason(event) or DESCRIPTIONS[sample.event].meaning,
        "hop": sample.hop,
        "head": sample.head.hex(),
    }
