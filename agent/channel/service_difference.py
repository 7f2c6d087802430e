# SPDX-License-Identifier: Apache-2.0
"""Services that not all nodes have: lines for the operator. Pure.

All nodes of a cluster need the same list of services. While it is being changed they differ, so the caller waits before
it shows these lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address

from agent.channel.state import NodeState, ServiceEndpoint, StateShare
from agent.model import State
from agent.problem import Problem, ProblemLine

MAX_LINES = 16

_STEP = "give all nodes the same services, then `lbctl reload` (`lbctl config diff` shows a node's own difference)"
FURTHER = Problem(
    "{nodes} {serve} {service}, this node {instead}",
    _STEP,
    "Usual while lb.yml is changed on one node after the other. If it stays: packets of a service that a node lacks "
    "pass to that node's kernel, which refuses them.",
)
LACKING = Problem(
    "this node serves {service}, {nodes} {do} not",
    _STEP,
    "The reverse: those nodes own none of the service's connections, and must not announce its VIP for another one.",
)
MORE = Problem("{count} more differences between the nodes' services", _STEP, "The number of lines is bounded.")


def differences(own: Collection[ServiceEndpoint], states: Mapping[IPv4Address, NodeState]) -> tuple[ProblemLine, ...]:
    """Return a line for each service that another node has and this one has not, or the reverse.

    Nodes with the same difference share a line, and the lines are bounded. `own`: the services of this node. A node
    that has left all its services, or has none, differs in nothing.
    """
    here = frozenset(own)
    lacking: dict[ServiceEndpoint, list[IPv4Address]] = {}
    further: dict[ServiceEndpoint, list[IPv4Address]] = {}
    for nodes, shares in _by_services(states):
        there = {key for key, share in shares.items() if share.state is not State.LEFT}
        if there:
            for key in here - there:
                lacking.setdefault(key, []).extend(nodes)
            for key in there - here:
                further.setdefault(key, []).extend(nodes)
    lines = [
        FURTHER.line(
            nodes=_names(nodes),
            serve="serves" if len(nodes) == 1 else "serve",
            service=key,
            instead=_instead(key, here),
        )
        for key, nodes in sorted(further.items(), key=_order)
    ]
    # The other half of a pair of ports is named already.
    paired = {(key.vip, key.protocol, node) for key, nodes in further.items() for node in nodes}
    for key, nodes in sorted(lacking.items(), key=_order):
        rest = [node for node in nodes if (key.vip, key.protocol, node) not in paired]
        if rest:
            lines.append(LACKING.line(service=key, nodes=_names(rest), do="does" if len(rest) == 1 else "do"))
    more = len(lines) - MAX_LINES
    return (*lines[:MAX_LINES], MORE.line(count=more)) if more > 0 else tuple(lines)


def _by_services(
    states: Mapping[IPv4Address, NodeState],
) -> Iterable[tuple[list[IPv4Address], Mapping[ServiceEndpoint, StateShare]]]:
    """Return the different services, each with its nodes: `decode` gives equal ones the same object."""
    groups: dict[int, tuple[list[IPv4Address], Mapping[ServiceEndpoint, StateShare]]] = {}
    for address, state in states.items():
        groups.setdefault(id(state.shares), ([], state.shares))[0].append(address)
    return groups.values()


def _order(item: tuple[ServiceEndpoint, object]) -> tuple[int, bytes, str, int]:
    key = item[0]
    return key.vip.version, key.vip.packed, key.protocol, key.port


def _names(nodes: Iterable[IPv4Address]) -> str:
    first, *others = sorted(nodes)
    if not others:
        return str(first)
    return f"{first} and {others[0]}" if len(others) == 1 else f"{first} and {len(others)} other nodes"


def _instead(key: ServiceEndpoint, here: Iterable[ServiceEndpoint]) -> str:
    """Return what this node serves at the same VIP: `:443`, or that it does not serve it."""
    ports = sorted(other.port for other in here if (other.vip, other.protocol) == (key.vip, key.protocol))
    return " and ".join(f":{port or 'any'}" for port in ports) if 0 < len(ports) <= 2 else "does not"
