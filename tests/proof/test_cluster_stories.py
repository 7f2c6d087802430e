# SPDX-License-Identifier: Apache-2.0
"""A cluster in virtual time, of the project's own code, through all that trials have found to break connections.

No connection whose owner lives is reset. Two controls show that the simulation would notice: without silence as a flag
of the data path (a silent node is taken out of the tables), and without the echo (BGP is believed), connections break.
"""

import pytest
from support.cluster_model import ClusterModel, Rules
from support.cluster_stories import STORIES, play

FLOWS = 1_000_000
REMOVAL_BREAKS = (
    "one is away for 15 s",
    "one is away for 60 s",
    "none reaches another for 40 s",
    "one drains, another is away",
)
NO_ECHO_BREAKS = ("one is away for 15 s", "one is away for 60 s")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("one dies, one joins", 4),  # of four nodes: when one is lost, rows have fewer nodes than places
        pytest.param("one is away for 15 s", 4, marks=pytest.mark.slow),
        *(pytest.param(name, 6, marks=pytest.mark.slow) for name in STORIES),
    ],
)
def test_no_connection_whose_owner_lives_is_reset(name: str, size: int) -> None:
    model = ClusterModel(size, seed=1)
    play(STORIES[name], model, FLOWS)
    assert model.opened > FLOWS // 2
    assert model.held > 0
    assert (model.broken, dict(model.resets)) == (0, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", REMOVAL_BREAKS)
def test_silence_as_removal_breaks_connections(name: str) -> None:
    model = ClusterModel(6, seed=1, rules=Rules(passed_over=False))
    play(STORIES[name], model, FLOWS)
    assert model.broken > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_ECHO_BREAKS)
def test_hearsay_breaks_connections(name: str) -> None:
    model = ClusterModel(6, seed=1, rules=Rules(echo=False))
    play(STORIES[name], model, FLOWS)
    assert model.broken > 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 6, 12])
def test_stories_with_loss_and_other_sizes(size: int, request: pytest.FixtureRequest) -> None:
    """1 % of datagrams lost each way; the table is printed with -s."""
    for seed in range(2, 2 + int(request.config.getoption("--story-seeds"))):
        for name, story in STORIES.items():
            model = ClusterModel(size, seed, loss=0.01)
            play(story, model, FLOWS)
            print(f"{size:3} nodes, {name:40} {model.opened} opened, {model.broken} reset, {model.forgotten} forgotten")
            assert (name, model.broken) == (name, 0)
