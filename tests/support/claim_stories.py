# SPDX-License-Identifier: Apache-2.0
"""What makes chains forget owners, story by story: growth, halving, restarts, churn."""

from __future__ import annotations

from collections.abc import Callable

from support.claim_model import ClaimModel, address

Story = Callable[[ClaimModel, int], None]


def grows(factor: int, each_s: float = 2.0) -> Story:
    """Return the story of a cluster that grows by that factor, one node each 2 s; connections are opened all along."""

    def story(model: ClaimModel, flows: int) -> None:
        size = len(model.nodes)
        new = size * (factor - 1)
        model.open(flows // 2)
        steps = 8
        for number in range(size, size + new):
            model.join(address(number))
            model.run(each_s)
            if (number - size) % max(1, new // steps) == 0:
                model.open(flows // 2 // steps)

    return story


def halves(model: ClaimModel, flows: int) -> None:
    """Half of the nodes drain and leave, one after the other."""
    model.open(flows // 2)
    for node in list(model.nodes)[: len(model.nodes) // 2]:
        model.drain(node)
        model.run(3)
        model.open(flows // 2 // max(1, len(model.nodes) // 2))
        model.leave(node)
        model.run(2)


def doubles_then_halves(model: ClaimModel, flows: int) -> None:
    """A cluster doubles; then its first half drains and leaves."""
    grows(2)(model, flows // 2)
    halves(model, flows // 2)


def servers_restart(model: ClaimModel, flows: int) -> None:
    """Each node in turn drains, leaves, and comes back with another boot."""
    model.open(flows // 2)
    nodes = list(model.nodes)
    for node in nodes:
        model.drain(node)
        model.run(4)
        model.leave(node)
        model.run(4)
        model.join(node, boot=model.nodes[node].boot + 1)
        model.run(4)
        model.open(flows // 2 // len(nodes))


def agents_restart(model: ClaimModel, flows: int) -> None:
    """While a cluster doubles, agents are killed and are back after 3 s."""
    size = len(model.nodes)
    model.open(flows // 2)
    for number in range(size, 2 * size):
        model.join(address(number))
        model.run(1)
        model.restart_agent(model.random.choice([n.address for n in model.nodes.values() if n.alive and n.agent]), 3)
        model.run(2)
        model.open(flows // 2 // size)


def churn(seconds: float) -> Story:
    """Return the story of a cluster whose nodes come and go; connections have lives with a heavy tail."""

    def story(model: ClaimModel, flows: int) -> None:
        size, number, end = len(model.nodes), len(model.nodes), model.now + seconds
        draining: list[object] = []
        rounds = int(seconds / 10)
        model.open(flows // 4)
        while model.now < end:
            model.open(flows * 3 // 4 // rounds, lambda: 5.0 * model.random.paretovariate(1.0))
            up = [n.address for n in model.nodes.values() if n.alive and n.address not in draining]
            act = model.random.random()
            if act < 0.4 and len(up) < 2 * size:
                model.join(address(number))
                number += 1
            elif act < 0.6 and len(up) > max(3, size // 2):
                one = model.random.choice(up)
                model.drain(one)
                draining.append(one)
            elif act < 0.7 and draining:
                one = draining.pop(0)
                if model.random.random() < 0.5:
                    model.leave(one)
                else:
                    model.undrain(one)
            elif act < 0.75 and len(up) > max(3, size // 2):
                model.crash(model.random.choice(up))
            elif act < 0.85:
                model.restart_agent(model.random.choice(up), 3)
            model.run(model.random.uniform(5, 15))

    return story


STORIES: dict[str, Story] = {
    "doubles one by one": grows(2),
    "quadruples one by one": grows(4),
    "drains and leaves down to half": halves,
    "doubles, then halves": doubles_then_halves,
    "servers restart in turn": servers_restart,
    "agents restart while it doubles": agents_restart,
    "ten minutes of churn": churn(600),
}
