# SPDX-License-Identifier: Apache-2.0
"""Nodes that join and leave while connections are open and more are opened: no session is lost, with a tenth of all
datagrams between agents lost. Without the hand-over the same changes lose sessions."""

import pytest
from support.session_cluster import SWEEP_S, Cluster

from agent.handover.exchange import Count
from agent.handover.sent_log import SETTLED_TICKS

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("seed", range(3))
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


FEW, MORE = 1 << 16, 1 << 17


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_returns_with_the_former_number_of_sessions_gives_no_endpoint_that_another_node_has_given(
    seed: int,
) -> None:
    """It is drained while `nat.sessions` becomes more, returns with the former configuration, and gets the new one."""
    cluster = Cluster(3, seed, numbers=(MORE, FEW))
    cluster.change((1, 2), places=[0])
    cluster.run(1.0)
    cluster.change((1, 2))
    cluster.run(1.0)
    cluster.stop(0)
    cluster.open(1500)

    cluster.start(0, (FEW,))
    for number in (1, 2):
        cluster.give(number, FEW)  # as long as a node has no other
    cluster.meet()
    cluster.change(range(3))
    cluster.run(1.0)
    returned = cluster.node(0)
    assert returned.exchange.counters[Count.TAKEN] == 0
    assert returned.exchange.counters[Count.MALFORMED] > 20, "it knows nothing of the new number"
    cluster.open(1500)
    cluster.run(5.0, lambda: cluster.use_some(10), slice_s=SWEEP_S)
    assert cluster.clashes() == 0
    assert cluster.lost() == 0

    cluster.restart(0, (MORE, FEW))
    cluster.run(2.0)
    assert cluster.node(0).exchange.counters[Count.TAKEN] > 300
    assert sum(node.exchange.counters[Count.RESET] for node in cluster.nodes.values()) == 0
    assert cluster.lost() == 0


def test_nodes_without_a_common_number_of_sessions_give_no_endpoint_twice() -> None:
    """In both directions: the returned node gets rows, and gives them up again."""
    cluster = Cluster(2, 1, numbers=(MORE,))
    cluster.open(1000)
    cluster.start(2, (FEW,))
    cluster.meet()
    for owners, places in ((range(3), ()), (range(2), (2,))):
        cluster.change(owners, places=places)
        cluster.run(1.0)
        cluster.open(1000)
        cluster.run(2.0, lambda: cluster.use_some(10), slice_s=SWEEP_S)
        assert cluster.clashes() == 0
        assert cluster.lost() == 0
    malformed = [cluster.node(number).exchange.counters[Count.MALFORMED] for number in range(3)]
    assert all(malformed), "the control: none takes what the others have"


def test_of_two_sessions_with_one_endpoint_one_ends_although_their_owner_cannot_take_the_other() -> None:
    """A node that returns with the former number gets no datagram while it makes sessions, so nothing is reserved."""
    cluster = Cluster(3, 0, numbers=(MORE, FEW))
    for places in ((0,), ()):
        cluster.change((1, 2), places=places)
        cluster.run(1.0)
    cluster.stop(0)
    cluster.open(1500)
    cluster.start(0, (FEW,))
    for number in (1, 2):
        cluster.give(number, FEW)
    cluster.meet()
    cluster.share = 1.0
    cluster.change(range(3))
    cluster.run(1.5)
    cluster.open(1500)
    cluster.share, clashes = 0.0, cluster.clashes()
    assert clashes > 20
    cluster.run(5.0, lambda: cluster.use_some(10), slice_s=SWEEP_S)
    assert cluster.clashes() == 0
    assert cluster.lost() == clashes, "one of each two"
