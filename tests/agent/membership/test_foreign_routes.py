# SPDX-License-Identifier: Apache-2.0
"""Which router's leak is named, and that a default route is none."""

from agent.membership.foreign_routes import MANY, problems
from bgp.relay.protocol import Peer, Snapshot


def test_a_router_that_sends_many_is_named_with_the_next_step():
    leaking, usual = Peer("10.0.0.1", True, 1.0, True, foreign=20_000), Peer("10.0.0.2", True, 1.0, True, foreign=MANY)
    (line,) = problems(Snapshot((leaking, usual)))
    assert line.startswith("router 10.0.0.1 sends more than 100 routes")
    assert "lbctl announce config" in line
    assert problems(None) == []
