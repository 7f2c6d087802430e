# SPDX-License-Identifier: Apache-2.0
"""How fast the last node of a cluster knows that one is silent, and how often one is taken for silent that is not.

The askers are the real ones, on a virtual clock (support/echo_net.py). `pytest -s` prints the figures;
tests/proof/test_liveness.py has more of them.
"""

import pytest
from support.echo_figures import Detection, detection, wrong_per_day, wrong_silence

HINTED_S, ALONE_P99_S = 0.35, 0.75


def check(found: Detection) -> None:
    print(found)
    assert found.hinted_max_s <= HINTED_S
    assert found.alone_p99_s <= ALONE_P99_S


def test_three_nodes() -> None:
    check(detection(3, trials=100))


def test_sixteen_nodes() -> None:
    check(detection(16, trials=20))


def test_a_hundred_nodes() -> None:
    check(detection(128, trials=2))


def test_a_thousand_nodes() -> None:
    """A few of them are real; the rest asks the dead node at random times, and tells."""
    check(detection(1000, trials=30, real=8))


def test_wrong_silence_is_as_rare_as_computed() -> None:
    """At a loss that makes it frequent enough to be counted."""
    found = wrong_silence(16, loss=0.25, seconds=60, seed=1)
    print(found)
    assert 0.6 * found.expected < found.wrong < 1.4 * found.expected


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_no_node_is_taken_for_silent_at_a_small_loss(loss: float) -> None:
    found = wrong_silence(32, loss, seconds=30, seed=2)
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
