# SPDX-License-Identifier: Apache-2.0
"""Nodes that join and leave while connections are open and more are opened: no session is lost, with a tenth of all
datagrams between agents lost. Without the hand-over the same changes lose sessions."""

import pytest
from support.session_cluster import SWEEP_S, Cluster

from agent.handover.exchange import Count
from agent.handover.sent_log import SETTLED_TICKS


def joins_and_leaves(cluster: Cluster) -> None:
    """Three nodes become five, then two of the first ones leave, while connections are opened and used."""

    def traffic() -> None:
        cluster.open(1)
        cluster.use_some(1)

    cluster.open(1500)
    cluster.start(3)
    cluster.meet(traffic)
    cluster.change(range(4))
    cluster.run(1.0, traffic)
    cluster.start(4)
    cluster.meet(traffic)
    cluster.change(range(5))
    cluster.run(1.0, traffic)
    for leaver in (0, 1):
        staying = range(leaver + 1, 5)
        cluster.change(staying, places=[leaver])
        cluster.run(1.0, traffic)
        cluster.change(staying)
        cluster.run(1.5, traffic)
        cluster.stop(leaver)
        cluster.run(0.5, traffic)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 3))])
def test_no_session_is_lost_when_nodes_join_and_leave(seed: int) -> None:
    cluster = Cluster(3, seed, share=0.1)
    joins_and_leaves(cluster)
    assert cluster.refused == 0
    assert len(cluster.flows) > 3000
    assert cluster.lost() == 0
    totals = {count: sum(node.exchange.counters[count] for node in cluster.nodes.values()) for count in Count}
    assert totals[Count.TAKEN] > 1000
    assert (totals[Count.MALFORMED], totals[Count.DECLINED], totals[Count.RESET]) == (0, 0, 0)
    cluster.run(SETTLED_TICKS * 1.1 + 2, slice_s=SWEEP_S)
    assert cluster.copies() == len(cluster.flows), "who handed a session over has freed its slot"
    assert cluster.lost() == 0


def test_without_the_hand_over_the_sessions_of_nodes_that_left_are_lost() -> None:
    cluster = Cluster(3, 1, hands_over=False)
    joins_and_leaves(cluster)
    assert cluster.lost() > 500
