# SPDX-License-Identifier: Apache-2.0
"""Generated frames through the real program and the oracle: no difference in verdict, frame or counters.

20,000 by default, any number by `pytest tests/proof/test_generated.py --generated 1000000`.
"""

from collections import Counter as Tally
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_packets import judge
from proof_generator import SIZE, batch, world
from proof_stage import Sockets, Stage

BATCH = 64
WORLDS = 4


@pytest.mark.parametrize("seed", range(WORLDS))
@pytest.mark.timeout(3600)
def test_program_equals_oracle(seed: int, stage: Stage, sockets: Sockets, request: pytest.FixtureRequest) -> None:
    packets = request.config.getoption("--generated") // WORLDS
    stage.install(here := replace(world(seed), sockets=sockets.flows))
    before = stage.counted()
    foreseen: Tally[tuple[int, str]] = Tally()
    verdicts: Tally[str] = Tally()

    @settings(
        max_examples=-(-packets // BATCH),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=BATCH * SIZE, max_size=BATCH * SIZE))
    def compare(data: bytes) -> None:
        sockets.refresh()
        for frame in batch(data):
            judgement = judge(here, frame)
            verdicts[judgement.verdict] += 1
            foreseen.update(judgement.counted)
            assert stage.send(frame) == (judgement.verdict, judgement.frame), f"{frame.hex()}: {judgement}"

    compare()
    after = stage.counted()
    assert {key: value - before[key] for key, value in after.items() if value != before[key]} == dict(foreseen)
    # The generator is of use only if no kind of packet is rare.
    assert verdicts.total() >= packets
    assert all(verdicts[verdict] > packets / 20 for verdict in ("pass", "drop", "tx")), verdicts
