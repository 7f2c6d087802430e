# SPDX-License-Identifier: Apache-2.0
"""Generated frames through both builds of the program and the oracle: no difference in verdict, frame or counters.

20,000 by default, any number by `pytest tests/proof/test_generated.py --generated 1000000`. hypothesis draws the bytes
of many frames at a time; a frame that differs is simplified here, which takes microseconds for each try.
"""

from collections import Counter as Tally
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.oracle.packets import judge
from support.oracle.world import World
from support.proof.generator import SIZE, frame
from support.proof.stage import Stage, difference
from support.proof.stage_sockets import Sockets
from support.proof.world import world

BATCH = 64
WORLDS: list[dict[str, bool]] = [
    {"denied": False},
    {"silent": True},
    {"tunnels": False},
    {"ipv6": False, "silent": True},
    {"ipv6": False, "tunnels": False, "denied": False},
    {"denied": False, "silent": True},
]
"""Worlds without IPv6 use a program that is compiled without it. Two epochs leave no packet to the plain program."""
ALTERNATING: dict[int, bool] = {1: True, 3: False}
"""By world: whether the rows of its two epochs alternate; the other worlds have one epoch."""


@pytest.mark.parametrize(
    ("stage", "seed"),
    [({"ipv6": kind.get("ipv6", True)}, seed) for seed, kind in enumerate(WORLDS)],
    indirect=["stage"],
)
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_program_equals_oracle(seed: int, stage: Stage, sockets: Sockets, request: pytest.FixtureRequest) -> None:
    packets = request.config.getoption("--generated") // len(WORLDS)
    here = world(seed, **WORLDS[seed], alternating=ALTERNATING.get(seed))
    stage.install(here := replace(here, sockets=sockets.flows))
    before = stage.counted()
    expected: Tally[tuple[int, str]] = Tally()
    verdicts: Tally[str] = Tally()

    @settings(
        max_examples=-(-packets // BATCH),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=BATCH * SIZE, max_size=BATCH * SIZE))
    def compare(data: bytes) -> None:
        sockets.refresh()
        for at in range(0, len(data), SIZE):
            judgement = judge(here, sent := frame(data[at : at + SIZE]))
            verdicts[judgement.verdict] += 1
            expected.update(judgement.counted)
            if not stage.agrees(judgement, sent):
                pytest.fail(simplest(here, stage, data[at : at + SIZE]))

    compare()
    assert stage.counted() - before == {key: value * len(stage.BUILDS) for key, value in expected.items()}
    # The generator is useful only if no verdict is rare.
    assert verdicts.total() >= packets
    assert all(verdicts[verdict] > packets / 20 for verdict in ("pass", "drop", "tx")), verdicts
    assert expected[0, "reply_echo"] > packets / 100 or here.nodes[here.me].address is None


def simplest(here: World, stage: Stage, data: bytes) -> str:
    """Show the difference for the simplest frame that still differs."""
    for _ in range(2):
        for at in range(SIZE):
            simpler = data[:at] + b"\0" + data[at + 1 :]
            if not stage.agrees(judge(here, frame(simpler)), frame(simpler)):
                data = simpler
    return difference(here, stage, frame(data))
