# SPDX-License-Identifier: Apache-2.0
"""The demo's steps, as data: the actions on the cluster, and the next hops and tables that must follow.

Owns the order and the expectations; runner.py runs them. Every step leaves the cluster as the next one expects it:
b1 to b4 until `add`, then b1 to b5, without b2 between `drain` and `return`, and without b5 after `crash`. For `double`
b4 and b5 leave before it, so that three nodes become six. The last is `replace`: what is done about a dead server,
while its connections and those opened since are open.

`NAT_STEPS` are the same for nodes in front of backends (nat.clab.yml). A node that leaves hands its sessions over, so
none has to end before; and the server that stops is a backend.

The node that crashes is chosen for the control: under Linux's hash-threshold the loss of the middle next hop of five
moves the fewest flows. BIRD orders next hops by address, b5 first. FRR orders them by the age of their next-hop
objects: b5, which comes back in `double` once b4 has its session, is the last. For that b5 leaves before b4 there: if
the control's next hops of `service_down`, all but b4, came back within a second, FRR 8.4 would keep b5's object for
good, and b5 would be the third.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from topology.demo.cluster import Cluster
from topology.traffic.controller import TrafficController

Action = Callable[[Cluster, TrafficController], object]

FOUR = frozenset({"b1", "b2", "b3", "b4"})
FIVE = FOUR | {"b5"}
SIX = FIVE | {"b6"}
#: How long the client keeps a draining server's connections before it closes them.
LINGER_S = 3.0
#: The pause between servers that join one after the other.
JOIN_S = 2.0
#: How long a killed agent stays away, as under a supervisor: well inside the dead-man's 10 s.
AWAY_S = 1.0
#: The backend that stops, and its address.
BACKEND, BACKEND_ADDRESS = "s3", "10.9.0.13"


@dataclass(frozen=True, slots=True)
class Phase:
    """An action, and the state that must follow it. Sets are of node names."""

    act: Action
    #: The router's next hops for the VIP.
    next_hops: frozenset[str]
    #: The nodes that take new connections, by the status of all `observers`, whose tables must be equal.
    takers: frozenset[str]
    observers: frozenset[str]
    #: The nodes that are in no chain any more.
    gone: frozenset[str] = frozenset()
    #: The next hops in the lab of plain ECMP, where they differ.
    ecmp_next_hops: frozenset[str] | None = None
    #: The node whose BGP session must be a new one. FRR re-establishes a session faster than it reports the loss to
    #: its kernel, so the next hops do not show it.
    renewed_session: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the first phase is measured, the others complete it under traffic."""

    name: str
    title: str
    phases: tuple[Phase, ...]
    #: The server, or node in front of backends, that is stopped or crashed: its connections are lost with it and
    #: counted apart.
    stopped: str | None = None
    #: The server that must take no new connections after convergence.
    idle: str | None = None
    #: The next hops must not change at all.
    next_hops_fixed: bool = False
    #: Before the step's connections are opened, and after they are counted. What new ones meanwhile fail counts for the
    #: step that follows.
    prepare: tuple[Phase, ...] = ()
    restore: tuple[Phase, ...] = ()


def _start_b5(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.start("b5", "speaker", "agent")


def _drain(node: str) -> Action:
    return lambda cluster, _traffic: cluster.request(node, "POST", "/drain")


def _leave(node: str, linger_s: float) -> Action:
    def act(cluster: Cluster, traffic: TrafficController) -> None:
        time.sleep(linger_s)
        traffic.close_held(node)
        cluster.request(node, "POST", "/leave")

    return act


def _stop(node: str) -> Action:
    return lambda cluster, _traffic: cluster.stop(node, "agent", "speaker")


def _return(*nodes: str) -> Action:
    """Start nodes, one each `JOIN_S`, in the order in which the router meets them. One that has left stays out until
    `undrain`."""

    def act(cluster: Cluster, _traffic: TrafficController) -> None:
        for number, node in enumerate(nodes):
            time.sleep(JOIN_S if number else 0)
            cluster.start(node, "speaker", "agent")
            cluster.wait(f"{node}'s agent to answer", partial(cluster.agent_answers, node))
            cluster.request(node, "POST", "/undrain")
            cluster.wait(f"{node}'s BGP session", partial(cluster.has_bgp_session, node))

    return act


def _kill_speaker_b2(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.kill("b2", "speaker")


def _start_speaker_b2(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.start("b2", "speaker")


def _clear_session_b2(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.clear_session("b2")


def _restart_agent_b4(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.kill("b4", "agent")
    cluster.kill("b4", "relay")  # ExaBGP starts it again by itself
    time.sleep(AWAY_S)
    cluster.start("b4", "agent")


def _stop_server_b4(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.kill("b4", "server", signal.SIGTERM)


def _start_server_b4(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.start("b4", "server")


def _stop_backend(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.kill(BACKEND, "server", signal.SIGTERM)
    cluster.wait_for_backend(BACKEND_ADDRESS, FIVE, up=False)


def _start_backend(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.start(BACKEND, "backend")
    cluster.wait_for_backend(BACKEND_ADDRESS, FIVE, up=True)


def _crash_b5(cluster: Cluster, _traffic: TrafficController) -> None:
    cluster.crash("b5")


def _without(node: str) -> frozenset[str]:
    return FIVE - {node}


def _leaving(node: str, before: frozenset[str], linger_s: float = 0.0) -> tuple[Phase, ...]:
    """Return the phases in which a node of these drains, leaves once its clients have gone, and stops."""
    after, gone = before - {node}, frozenset({node})
    return (
        Phase(_drain(node), after, after, before),
        Phase(_leave(node, linger_s), after, after, before, gone=gone),
        Phase(_stop(node), after, after, after, gone=gone),
    )


SPREAD = Step("spread", "nothing happens: where connections enter and end", phases=())

STEPS = (
    SPREAD,
    Step("add", "a fifth server joins", (Phase(_start_b5, FIVE, FIVE, FIVE),)),
    Step(
        "drain",
        "b2 drains, its connections close after some seconds, it leaves",
        _leaving("b2", FIVE, LINGER_S),
        idle="b2",
    ),
    Step("return", "b2 comes back", (Phase(_return("b2"), FIVE, FIVE, FIVE),)),
    Step(
        "session_loss",
        "kill -9 of ExaBGP on b2, then start again",
        (
            # No table changes: b2 answers for itself, only the routers do not send to it any more.
            Phase(_kill_speaker_b2, _without("b2"), FIVE, FIVE),
            Phase(_start_speaker_b2, FIVE, FIVE, FIVE),
        ),
    ),
    Step(
        "session_clear",
        "the router clears its session with b2",
        (Phase(_clear_session_b2, FIVE, FIVE, FIVE, renewed_session="b2"),),
    ),
    Step(
        "agent_restart",
        "kill -9 of the agent and the relay on b4, then start again",
        (Phase(_restart_agent_b4, FIVE, FIVE, FIVE),),
        next_hops_fixed=True,
    ),
    Step(
        "service_down",
        "b4's server stops, its node goes on forwarding",
        (Phase(_stop_server_b4, FIVE, _without("b4"), FIVE, ecmp_next_hops=_without("b4")),),
        stopped="b4",
        idle="b4",
        restore=(Phase(_start_server_b4, FIVE, FIVE, FIVE),),
    ),
    Step(
        "double",
        "three servers become six, one each 2 s",
        (Phase(_return("b4", "b5", "b6"), SIX, SIX, SIX),),
        prepare=(*_leaving("b5", FIVE), *_leaving("b4", _without("b5"))),
        restore=_leaving("b6", SIX),
    ),
    Step(
        "crash",
        "b5 loses its power",
        (Phase(_crash_b5, FOUR, FOUR, FOUR),),
        stopped="b5",
        idle="b5",
    ),
    Step(
        "replace",
        "a new server joins in b5's stead",
        (Phase(_return("b6"), SIX - {"b5"}, SIX - {"b5"}, SIX - {"b5"}),),
    ),
)
_SAME = {step.name: step for step in STEPS}
NAT_STEPS = (
    Step("rest", "nothing happens", phases=()),
    _SAME["add"],
    Step("drain", "b2 drains and leaves; its sessions move to the others", _leaving("b2", FIVE)),
    *(_SAME[name] for name in ("return", "session_loss", "session_clear", "agent_restart")),
    Step(
        "backend_down",
        "the server of a backend stops",
        (Phase(_stop_backend, FIVE, FIVE, FIVE),),
        stopped=BACKEND,
        idle=BACKEND,
        restore=(Phase(_start_backend, FIVE, FIVE, FIVE),),
    ),
    *(_SAME[name] for name in ("double", "crash", "replace")),
)
_ONLY_WHOLE = frozenset({"session_loss", "session_clear", "agent_restart", "double"})
#: A shorter scenario for tests, with as many connections: the control's shares must be far from chance.
SMALL = tuple(step for step in STEPS if step.name not in _ONLY_WHOLE)
NAT_SMALL = tuple(step for step in NAT_STEPS if step.name not in _ONLY_WHOLE)
