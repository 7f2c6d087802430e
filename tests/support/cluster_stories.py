# SPDX-License-Identifier: Apache-2.0
"""What happens to a cluster in virtual time, story by story: each opens connections, breaks something, and mends it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from support.cluster_model import ROUTER, ClusterModel

from agent.address import NodeAddress
from agent.model import State

Story = Callable[[ClusterModel, int], None]
SETTLE_S = 3.0
GRACE_OVER_S = 35.0
"""When no row is in grace any more, whatever changed."""


def address(n: int) -> IPv4Address:
    """Return b1's address, b2's, ..."""
    return NodeAddress(IPv4Address(f"10.0.0.{10 + n}"))


B1, B2, B3, B6 = map(address, (1, 2, 3, 6))


def dies_then_joins(model: ClusterModel, flows: int) -> None:
    """b3 dies; connections are opened; a new node joins."""
    model.crash(B3)
    model.run(1)
    model.open(flows)
    model.boot(address(len(model.nodes) + 1))
    model.run(GRACE_OVER_S)


def dies_then_drains(model: ClusterModel, flows: int) -> None:
    """b3 dies; connections are opened; b2 drains."""
    model.crash(B3)
    model.run(1)
    model.open(flows)
    model.drain(B2)
    model.run(GRACE_OVER_S)


def dies_joins_boots(model: ClusterModel, flows: int) -> None:
    """b3 dies; connections are opened; a new node joins; 6 s later b3 boots."""
    model.crash(B3)
    model.run(1)
    model.open(flows)
    model.boot(address(len(model.nodes) + 1))
    model.run(6)
    model.boot(B3)
    model.run(GRACE_OVER_S)


def boots_within_a_second(model: ClusterModel, flows: int) -> None:
    """b3 loses power and is back within a second."""
    model.crash(B3)
    model.run(0.7)
    model.open(flows)
    model.boot(B3, named_after=0.3)
    model.run(GRACE_OVER_S)


def one_away(seconds: float) -> Story:
    """Return the story of a node whose link is away for a time."""

    def story(model: ClusterModel, flows: int) -> None:
        model.cut_off(B3)
        model.later(0.1, lambda: model.name(B3, False))
        model.run(1)
        model.open(flows)
        model.run(seconds - 1)
        model.heal()
        model.later(1.0, lambda: model.name(B3, True))
        model.run(GRACE_OVER_S)

    return story


def all_away(seconds: float) -> Story:
    """Return the story of nodes that do not reach each other for a time, while BGP stays up."""

    def story(model: ClusterModel, flows: int) -> None:
        for one in model.nodes:
            model.cut_off(one, model.nodes)
        model.run(seconds)
        model.open(flows)
        model.heal()
        model.run(GRACE_OVER_S)

    return story


def observer_cut_off(model: ClusterModel, flows: int) -> None:
    """b1 does not reach b3, the others do: for a minute."""
    model.cut_off(B1, [B3])
    model.run(1)
    model.open(flows)
    model.run(60)
    model.heal()
    model.run(GRACE_OVER_S)


def partial_partition(model: ClusterModel, flows: int) -> None:
    """b3 is reached by b1 alone; meanwhile b2 drains and comes back."""
    model.cut_off(B3, [a for a in model.nodes if a != B1])
    model.run(2)
    model.open(flows)
    model.drain(B2)
    model.run(15)
    model.drain(B2, State.UP)
    model.run(15)
    model.heal()
    model.run(GRACE_OVER_S)


def restarts_while_one_dies(model: ClusterModel, flows: int) -> None:
    """All agents are killed; b3 loses power; the agents are back after 4 s."""
    for one in list(model.nodes):
        model.restart_agent(one, 4.0)
    model.run(0.1)
    model.crash(B3)
    model.run(4.5)
    model.open(flows)
    model.run(GRACE_OVER_S)


def restart_storm(model: ClusterModel, flows: int) -> None:
    """Agents restart again and again, each at its own times."""
    for _ in range(10):
        model.restart_agent(model.random.choice([n.address for n in model.nodes.values() if n.agent]), 1.0)
        model.run(model.random.uniform(0.2, 2.0))
        model.open(max(1, flows // 10))
    model.run(GRACE_OVER_S)


def drains_and_returns(model: ClusterModel, flows: int) -> None:
    """b2 drains for half a minute and returns, b3's link is away in between."""
    model.drain(B2)
    model.run(5)
    model.open(flows)
    model.cut_off(B3, [*model.nodes, ROUTER])
    model.run(15)
    model.heal()
    model.run(10)
    model.drain(B2, State.UP)
    model.run(GRACE_OVER_S)


STORIES: dict[str, Story] = {
    "one dies, one joins": dies_then_joins,
    "one dies, one drains": dies_then_drains,
    "one dies, one joins, the first boots": dies_joins_boots,
    "one boots within a second": boots_within_a_second,
    "one is away for 8 s": one_away(8),
    "one is away for 15 s": one_away(15),
    "one is away for 60 s": one_away(60),
    "none reaches another for 2 s": all_away(2),
    "none reaches another for 15 s": all_away(15),
    "none reaches another for 40 s": all_away(40),
    "one does not reach one": observer_cut_off,
    "one is reached by one": partial_partition,
    "all agents restart while one dies": restarts_while_one_dies,
    "agents restart again and again": restart_storm,
    "one drains, another is away": drains_and_returns,
}


def play(story: Story, model: ClusterModel, flows: int) -> None:
    """Play a story in a cluster that has settled and holds half of the connections before it begins."""
    model.run(SETTLE_S)
    model.open(flows // 2)
    story(model, flows // 2)
