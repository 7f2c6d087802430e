# SPDX-License-Identifier: Apache-2.0
"""Many nodes in virtual time through random events: once these stop, all views and tables are equal."""

import pytest
from support.cluster_model import ClusterModel
from support.cluster_stories import SETTLE_S

from agent.model import State

pytestmark = pytest.mark.slow

HISTORIES = [(0, 8), *((seed, 30) for seed in range(8))]


def happen(model: ClusterModel) -> None:
    """Let one thing happen that happens to clusters."""
    chosen = model.random.choice(sorted(model.nodes))
    node = model.nodes[chosen]
    kind = model.random.choice(
        ["crash", "boot", "restart", "drain", "undrain", "leave", "cut", "deaf", "heal", "unnamed"]
    )
    if kind == "crash" and node.alive:
        model.crash(chosen)
    elif kind == "boot" and not node.alive:
        model.boot(chosen)
    elif kind == "restart" and node.agent:
        model.restart_agent(chosen, model.random.uniform(0.1, 3.0))
    elif kind in ("drain", "undrain", "leave") and node.agent:
        model.drain(chosen, {"drain": State.DRAINING, "undrain": State.UP, "leave": State.LEFT}[kind])
    elif kind == "cut":
        model.cut_off(chosen)
    elif kind == "deaf":
        model.cut_off(chosen, [model.random.choice(sorted(model.nodes))])
    elif kind == "heal":
        model.heal()
    elif kind == "unnamed":
        model.name(chosen, chosen not in model.named)


@pytest.mark.parametrize(("seed", "events"), HISTORIES)
def test_views_and_tables_are_equal_once_changes_stop(seed: int, events: int) -> None:
    model = ClusterModel(5, seed, loss=0.02)
    model.run(SETTLE_S)
    for _ in range(events):
        happen(model)
        model.run(model.random.expovariate(0.5))
    model.heal()
    for one in list(model.nodes):
        if not model.nodes[one].alive:
            model.boot(one)
        model.name(one, True)
    model.run(60)
    live = {one for one, node in model.nodes.items() if node.state is not State.LEFT}
    for one in live:
        node = model.nodes[one]
        members = {m.address: (m.state, m.silent_since) for m in node.view.members}
        expected = {other: (model.nodes[other].state, None) for other in live - {one}}
        assert members == expected
        assert node.candidates == model.nodes[min(live)].candidates
