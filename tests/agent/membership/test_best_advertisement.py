# SPDX-License-Identifier: Apache-2.0
"""Which of several advertisements of one node the view follows."""

from ipaddress import IPv4Address

from support.reports import DOWN, A, identity, states, up

from agent.membership.view import View
from agent.model import State


def weight_of(view: View, address: IPv4Address = A) -> int:
    return next(member.shares[5].effective for member in view.members if member.address == address)


def test_of_two_live_peers_the_higher_version_is_best_in_any_order() -> None:
    old, new = identity(A, weight=10, version=4), identity(A, weight=90, version=6)
    for first, second in ((old, new), (new, old)):
        view = View()
        view.observe({"r": up(first), "s": up(second)}, 0)
        assert weight_of(view) == 90
        view.observe({"s": up(second), "r": up(first)}, 1)
        assert weight_of(view) == 90


def test_lower_version_is_ignored_while_another_live_peer_advertises_the_higher() -> None:
    view = View()
    view.observe({"r": up(identity(A, weight=90, version=6)), "s": up(identity(A, weight=90, version=6))}, 0)
    view.observe({"r": up(identity(A, weight=90, version=6)), "s": up(identity(A, weight=10, version=4))}, 1)
    assert weight_of(view) == 90


def test_lower_version_after_a_reinstall_is_accepted_once_no_peer_advertises_the_higher() -> None:
    high, low = identity(A, weight=90, version=6), identity(A, weight=10, version=4)
    view = View()
    view.observe({"r": up(high), "s": up(high)}, 0)
    view.observe({"r": up(), "s": up(high)}, 1)
    view.observe({"r": up(low), "s": up(high)}, 2)
    assert weight_of(view) == 90
    view.observe({"r": up(low), "s": up()}, 3)
    assert (weight_of(view), states(view)) == (10, {A: State.UP})


def test_live_advertisement_replaces_a_stale_one_even_with_a_lower_version() -> None:
    view = View()
    view.observe({"r": up(identity(A, weight=90, version=6)), "s": up()}, 0)
    view.observe({"r": DOWN, "s": up(identity(A, weight=10, version=4))}, 1)
    assert weight_of(view) == 10
    view.observe({"r": DOWN, "s": DOWN}, 2)
    assert weight_of(view) == 10, "what r advertised is older than what s did, whatever its version"


def test_of_two_contents_under_one_version_all_nodes_choose_the_same() -> None:
    one, other = identity(A, weight=10, version=4), identity(A, weight=90, version=4)
    views = [View(), View()]
    views[0].observe({"r": up(one), "s": up(other)}, 0)
    views[1].observe({"r": up(other), "s": up(one)}, 0)
    assert weight_of(views[0]) == weight_of(views[1])
