# SPDX-License-Identifier: Apache-2.0
"""The questions by the encapsulations that packets use."""

import pytest
from support.echo_net import EchoNet, addresses
from support.one_asker import A, B, net

from agent.liveness.question import Via


class TestPaths:
    """The encapsulations that packets use are asked by too, and silence no node."""

    def test_each_is_asked_at_first_contact_and_then_each_half_minute(self) -> None:
        made = net(vias=(Via.GUE, Via.MARKER))
        stats = made.askers[A].stats(B)
        assert {via: one.asked for via, one in stats.items() if via is not Via.PLAIN} == {Via.GUE: 1, Via.MARKER: 1}
        made.run(300)
        assert 10 <= stats[Via.GUE].asked <= 12
        assert stats[Via.GUE].unanswered == 0
        assert stats[Via.GUE].rtt_s == pytest.approx(0.0002, rel=0.5)

    def test_a_fabric_that_drops_one_is_seen_and_silences_no_node(self) -> None:
        made = net(vias=(Via.GUE, Via.MARKER))
        made.broken.add(Via.GUE)
        made.run(60)
        stats = made.askers[A].stats(B)
        assert stats[Via.GUE].in_a_row >= 4
        assert stats[Via.MARKER].unanswered == stats[Via.PLAIN].unanswered == 0
        assert made.verdicts == []
        made.broken.clear()
        made.run(60)
        assert stats[Via.GUE].in_a_row == 0

    def test_another_encapsulation_is_asked_by_at_once(self) -> None:
        made = net(vias=(Via.GUE,))
        made.askers[A].follow(addresses(4), made.now, vias=(Via.IPIP,))
        made.run(1)
        assert made.askers[A].stats(B)[Via.IPIP].asked == 1

    def test_a_thousand_new_nodes_are_not_asked_all_at_once(self) -> None:
        made = EchoNet(addresses(1000), [A], 1, vias=(Via.GUE,))
        made.run(0.06)
        assert made.asked < 150
        made.run(8)
        assert all(one.answers for one in made.askers[A].liveness.values())
        assert all(Via.GUE in made.askers[A].stats(address) for address in addresses(1000)[1:])
