# SPDX-License-Identifier: Apache-2.0
"""How fast the last node of a cluster knows that one is silent, and how often one is taken for silent that is not.

The askers are the real ones, on a virtual clock (support/echo_net.py). `pytest -s` prints the figures,
`--echo-scale` makes them more precise.
"""

import pytest
from support.echo_figures import Detection, detection, wrong_per_day, wrong_silence

HINTED_S, ALONE_P99_S = 0.35, 0.75


def check(found: Detection) -> None:
    print(found)
    assert found.hinted_max_s <= HINTED_S
    assert found.alone_p99_s <= ALONE_P99_S


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> int:
    factor: int = request.config.getoption("--echo-scale")
    return factor


@pytest.mark.parametrize("trials", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_three_nodes(trials: int, scale: int) -> None:
    check(detection(3, trials=trials * scale))


@pytest.mark.slow
def test_sixteen_nodes(scale: int) -> None:
    check(detection(16, trials=10 * scale))


@pytest.mark.slow
def test_a_hundred_nodes(scale: int) -> None:
    check(detection(128, trials=2 * scale))


@pytest.mark.slow
def test_a_thousand_nodes(scale: int) -> None:
    """A few of them are real; the rest asks the dead node at random times, and reports it."""
    check(detection(1000, trials=20 * scale, real=8))


@pytest.mark.slow
def test_sixteen_nodes_with_loss(scale: int) -> None:
    found = detection(16, trials=10 * scale, loss=0.01)
    print("1 % loss each way:", found)
    assert found.alone_p99_s < 1


@pytest.mark.slow
def test_wrong_silence_is_as_rare_as_computed(scale: int) -> None:
    """At a loss that makes it frequent enough to be counted."""
    found = wrong_silence(16, loss=0.25, seconds=40 * scale, seed=1)
    print(found)
    assert 0.5 * found.expected < found.wrong < 1.5 * found.expected


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.05, 0.01])
def test_no_node_is_taken_for_silent_at_a_small_loss(loss: float, scale: int) -> None:
    found = wrong_silence(32, loss, seconds=30 * scale, seed=2)
    print(found)
    assert found.wrong == 0
    assert 0.7 * found.expected_bursts < found.bursts < 1.4 * found.expected_bursts


def test_wrong_silence_in_a_large_cluster() -> None:
    """What follows from the two tests above for 1,000 nodes and a day."""
    for loss in (0.01, 0.05):
        print(
            f" 1000 nodes, {loss:.0%} loss each way: {wrong_per_day(1000, loss):.2g} wrong a day in the whole cluster"
        )
    assert wrong_per_day(1000, 0.01) < 0.001
    assert wrong_per_day(1000, 0.05) < 5
