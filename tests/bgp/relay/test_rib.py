# SPDX-License-Identifier: Apache-2.0
"""A neighbor's routes: what counts as a change, what stays the same object, and the limits of memory."""

from dataclasses import replace

from bgp.relay.rib import Rib
from bgp.route import Route

A, B, C = (Route.of(f"10.254.0.{i}/32", "10.0.0.12", [[65001, 1, i]]) for i in range(3))


def test_equal_route_is_no_change_and_the_object_stays() -> None:
    rib = Rib()
    assert rib.put(A)
    assert rib.put(B)
    routes = rib.routes
    assert not rib.put(replace(A))
    assert not rib.drop(C.prefix)
    assert rib.routes is routes
    assert rib.by_prefix[A.prefix] is A
    changed = replace(A, med=5)
    assert rib.put(changed)
    assert rib.routes == (changed, B), "in its position"
    assert rib.drop(A.prefix)
    assert rib.routes == (B,)


def test_routes_beyond_the_limit_are_refused_until_others_go() -> None:
    rib = Rib(max_routes=2)
    for route in (A, B, C):
        rib.put(route)
    assert rib.routes == (A, B)
    assert rib.overflow
    assert not rib.has_room
    assert rib.put(replace(A, med=5)), "a route that is there may change"
    rib.drop(A.prefix)
    assert rib.has_room
    assert rib.put(C)
    assert rib.routes == (B, C)


def test_route_that_grows_beyond_the_limit_of_memory_is_removed() -> None:
    """The old one would no longer be what the router advertises."""
    rib = Rib(max_bytes=4000)
    rib.put(A)
    rib.put(B)
    large = replace(A, large_communities=tuple((65001, 1, i) for i in range(30)))
    assert rib.put(large) is True
    assert rib.overflow
    assert rib.routes == (B,)
    rib.drop(B.prefix)
    assert not rib.put(large), "too large on its own"


def test_memory_is_counted_down_to_nothing() -> None:
    """Otherwise a router that changes its routes for long enough reaches the limit with few of them."""
    rib = Rib(max_bytes=2000)
    for number in range(100):
        rib.put(replace(A, large_communities=((65001, 1, number),) * (number % 3), communities=((1, number),)))
        rib.put(replace(A, med=number))
        assert rib.drop(A.prefix)
    assert not rib.overflow
