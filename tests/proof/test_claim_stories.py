# SPDX-License-Identifier: Apache-2.0
"""Clusters that grow, shrink, restart and churn, with claims: what is lost of a million connections.

Claims are dumped, sent and merged as the agent does it; nodes differ by up to 2 s and a tenth of all datagrams is lost.
The control, without claims, loses what chains of 4 forget.
"""

from typing import Any

import pytest
from support.claim_model import ClaimModel, Rules
from support.claim_stories import STORIES

FLOWS = 1_000_000
GROWTH = ("doubles one by one", "quadruples one by one", "agents restart while it doubles")


def play(name: str, size: int, seed: int, rows: int, **rules: Any) -> ClaimModel:
    model = ClaimModel(size, seed, rows, Rules(**rules))
    STORIES[name](model, FLOWS)
    model.settle()
    assert model.opened > FLOWS / 2
    return model


@pytest.mark.parametrize("name", [n if n == GROWTH[0] else pytest.param(n, marks=pytest.mark.slow) for n in STORIES])
def test_no_connection_is_lost(name: str) -> None:
    model = play(name, 6, seed=1, rows=64)
    assert (model.broken, model.breaks) == (0, [])
    assert bool(model.claimed) == (name not in ("drains and leaves down to half", "servers restart in turn"))


def test_chains_of_four_alone_forget() -> None:
    assert play(GROWTH[0], 6, seed=1, rows=64, claims=False).broken > FLOWS / 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_table_of_all_stories(request: pytest.FixtureRequest) -> None:
    """The table is printed with -s."""
    for seed in range(2, 2 + int(request.config.getoption("--story-seeds"))):
        for size in (8, 16, 32):
            for name, kind in ((name, kind) for name in STORIES for kind in ("rendezvous", "maglev")):
                model = play(name, size, seed, 128, hash=kind)
                control = play(name, size, seed, 128, claims=False, hash=kind)
                print(
                    f"{size:3} nodes, {kind:10}, {name:34} {model.opened} opened, {model.broken} lost, "
                    f"{control.broken} without claims; {model.full} rows too full, {model.walks} walks"
                )
                if name in GROWTH:
                    assert model.broken < control.broken
                if kind == "rendezvous":
                    assert (name, size, model.breaks) == (name, size, [])
