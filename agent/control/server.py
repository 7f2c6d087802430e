# SPDX-License-Identifier: Apache-2.0
"""The control socket: HTTP over a unix socket. lbctl is its client (agent/cli/client.py).

Owns the table of what it serves, who may ask for what, and the status codes of errors. Each noun's requests are in a
module of its own. Root may ask for everything; the group `anylb`, if there is one, may read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from agent.channel.overview import Overview
from agent.control import (
    announce,
    backend,
    cluster,
    config,
    connections,
    deny,
    explain,
    explain_live,
    explain_nat,
    instance,
    session,
    simulation,
    table_diff,
    trace,
)
from agent.control.check import Checked, checked
from agent.control.http_server import HttpServer, Request, Response, Routes, json_response
from agent.control.metrics_server import REQUESTED, Events, PageSources, serve_metrics
from agent.control.status import NodeState, status
from agent.doctor.tcp_count import read_tcp_count
from agent.errors import AgentError, LastAnnouncerError
from agent.file_acl import admit_readers
from agent.forwarding.map_writer import MapWriter
from agent.forwarding.packet_sampler import PacketSampler
from agent.model import State
from agent.node.operator import Operator
from agent.node.own_state import RELEASE

if TYPE_CHECKING:
    from agent.node.agent import Agent

log = logging.getLogger("anylb")
READING = ("GET", "HEAD")
EVENTS = 200
"""How many the page has."""


def _routes(agent: Agent, changes: config.Changing) -> Routes:
    """Return all handlers. Each noun gets what it needs of the agent, and no more."""
    return {
        ("GET", "/status"): lambda _: json_response(status(_state(agent, changes))),
        ("GET", "/cluster"): lambda _: _report(agent),
        ("GET", "/check"): lambda _: json_response(_look(agent, changes)[1].to_json()),
        ("GET", "/explain"): lambda request: json_response(_explain(agent, request.query.get("tuple", ""))),
        ("GET", "/table"): lambda request: simulation.simulate(_cluster(agent), request.query),
        ("GET", "/table/rows"): lambda request: table_diff.rows(_cluster(agent), _map_writer(agent), request.query),
        ("GET", "/table/diff"): lambda request: table_diff.diff(_cluster(agent), _map_writer(agent), request.query),
        ("GET", "/explain/live"): lambda request: _explain_live(agent, request),
        ("POST", "/drain"): lambda request: _set_state(agent.operator, State.DRAINING, request),
        ("POST", "/undrain"): lambda request: _set_state(agent.operator, State.UP, request),
        ("POST", "/leave"): lambda request: _set_state(agent.operator, State.LEFT, request),
        **config.routes(config.Configured(agent.config, agent.connections, agent.nat, changes)),
        **announce.routes(_announcing(agent)),
        **backend.routes(agent.config, agent.operator, agent.shares, agent.nat.backends),
        ("GET", "/connections"): lambda request: connections.connections(
            agent.connections, agent.config.services, _map_writer(agent), request.query
        ),
        **deny.routes(agent.deny_list),
        **instance.routes(agent.instances),
        **session.routes(_sessions(agent)),
        **trace.routes(_tracing(agent)),
    }


def _announcing(agent: Agent) -> announce.Announcing:
    return announce.Announcing(
        agent.config.vips,
        agent.operator,
        agent.announcer.exports,
        agent.announcer.relay,
        agent.planner.announcements,
        agent.planner.pools,
        agent.path_problems,
    )


def _look(agent: Agent, changes: config.Changing) -> tuple[Mapping[str, Any], Checked]:
    """Return the status and the verdict on it, as of now."""
    found, now = status(_state(agent, changes)), time.time()
    return found, checked(found, announce.report(_announcing(agent), now), now)


def _state(agent: Agent, changes: config.Changing) -> NodeState:
    return NodeState(
        node=agent.node,
        admin_state=agent.operator.state.admin_state,
        epoch_switch=agent.epoch_switch,
        ready=agent.ready and agent.membership_known,
        problems=agent.problems(),
        generation=agent.generation,
        refused=changes.refused,
        settled=changes.settled,
        speaker_problem=changes.speaker_problem,
        members=agent.members(),
        membership=agent.membership,
        shares=agent.shares(),
        health=agent.health,
        announcements=agent.planner.announcements(),
        pools=agent.planner.pools(),
        forwarder=agent.forwarder,
        relay=agent.announcer.relay,
        held=agent.connections.held,
        instances=agent.instances,
        claims=agent.claims,
        sessions=agent.nat.sessions,
        former_elsewhere=agent.nat.former_elsewhere(),
        hand_overs=agent.nat.hand_overs,
        backends=agent.nat.backends,
    )


def _overview(agent: Agent, changes: config.Changing) -> Overview:
    return cluster.overview(*_look(agent, changes), agent.publisher.digests, read_tcp_count(), time.monotonic_ns())


def _members(agent: Agent) -> cluster.Cluster:
    return cluster.Cluster(
        agent.node.address, agent.config.cluster, agent.members(), agent.membership.states, RELEASE, agent.overviews
    )


async def _report(agent: Agent) -> Response:
    return json_response(await cluster.report(_members(agent)))


def _explain(agent: Agent, text: str) -> dict[str, Any]:
    return explain_nat.explain(_forwarding(agent), _sessions(agent), text, time.monotonic_ns())


def _forwarding(agent: Agent) -> explain.Forwarding:
    return explain.Forwarding(
        agent.config,
        agent.epochs,
        _map_writer(agent),
        [member.address for member in agent.members()],
        agent.deny_list.prefixes,
    )


def _cluster(agent: Agent) -> simulation.Cluster:
    in_use = agent.epoch_switch.use.first if agent.epoch_switch else agent.epochs[0].number
    return simulation.Cluster(
        agent.node.address,
        {service.name: (service.key, service.hash) for service in agent.config.services if service.mode != "nat"},
        agent.members(),
        next((epoch for epoch in agent.epochs if epoch.number == in_use), agent.epochs[0]),
        agent.connections.held,
    )


def _map_writer(agent: Agent) -> MapWriter | None:
    return agent.forwarder.map_writer if agent.forwarder else None


def _sessions(agent: Agent) -> session.Sessions:
    return session.Sessions(agent.nat.sessions, agent.config.nat, agent.epochs, agent.config.former_pools)


def _tracing(agent: Agent) -> trace.Tracing:
    forwarder = agent.forwarder
    if forwarder is None:
        return trace.Tracing(None, {})
    names = {forwarder.map_writer.slot(service.name): service.name for service in agent.config.services}
    return trace.Tracing(PacketSampler(forwarder.datapath.maps.sampling), names)


async def _explain_live(agent: Agent, request: Request) -> Response:
    nodes = [member.address for member in agent.members()]
    walking = explain_live.Walking(agent.config, agent.node.address, nodes, agent.tracer.walk)
    query = request.query
    return json_response(await explain_live.explain_live(walking, query.get("tuple", ""), query.get("at", "")))


@contextlib.asynccontextmanager
async def serve(agent: Agent, changes: config.Changing, events: Events) -> AsyncIterator[None]:
    """Serve the control socket for as long as the context lasts. A socket left by a dead agent is replaced.

    `events` returns the last `EVENTS` of the node, the newest first.
    """
    routes = _routes(agent, changes)
    server = HttpServer(lambda request: _respond(routes, request))
    path = agent.paths.control
    # The agent's lock is held: a socket that is here has no server any more.
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        await server.start(path)
        admit_readers(path)
    except OSError as error:
        raise AgentError(f"{path}: cannot listen there: {error.strerror}; remove what occupies the path") from None
    finally:
        os.umask(before)
    agent.overviews.look = lambda: _overview(agent, changes)
    try:
        page = PageSources(lambda text: _explain(agent, text), events, lambda: cluster.report(_members(agent)))
        monitoring = serve_metrics(agent.config.metrics, lambda: _look(agent, changes), page)
        async with monitoring as agent.metrics_problem:
            yield
    finally:
        await server.stop()
        path.unlink(missing_ok=True)


async def _respond(routes: Routes, request: Request) -> Response:
    """Return a handler's response. A bug in one is reported as status 500, not as an agent that does not answer."""
    handler = routes.get((request.method, request.path))
    if handler is None:
        known = any(path == request.path for _, path in routes)
        code = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return json_response({"error": f"{request.method} {request.path}: {code.phrase}"}, code)
    if request.method not in READING and request.uid not in (0, os.geteuid()):
        return json_response({"error": f"{request.path}: only root may change this node; run lbctl as root"}, 403)
    try:
        if request.method not in READING:  # before its effects, which are events too
            given = "".join(f" {name}={value}" for name, value in request.query.items())
            log.info("%s%s%s", REQUESTED, request.path, given)
        response = handler(request)
        return response if isinstance(response, Response) else await response
    except LastAnnouncerError as error:
        return json_response({"error": str(error)}, 409)
    except AgentError as error:
        return json_response({"error": str(error)}, 400)
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return json_response({"error": f"{request.path} failed in the agent: {error}; see its log"}, 500)


def _set_state(operator: Operator, state: State, request: Request) -> Response:
    operator.set_admin_state(state, force="force" in request.query)
    return json_response({"ok": True, "state": state})
