# SPDX-License-Identifier: Apache-2.0
"""The dead-man's floor: when a silent agent's VIPs stay, and that relays which decide by it come to rest."""

from ipaddress import IPv4Address

import pytest

from bgp.community import Identity, ServiceState, encode
from bgp.relay.adj_rib_in import NeighborRib
from bgp.relay.protocol import DesiredRoutes
from bgp.relay.quorum import REFRESH_S, Quorum
from bgp.route import Route

CLUSTER = 7
LONG_AGO, NOW = 0.0, 1000.0


def prefix(number: int) -> str:
    return f"10.254.0.{number}/32"


def identity(number: int, announced: bool = True, cluster: int = CLUSTER) -> Route:
    address = IPv4Address(f"10.0.0.{number}")
    services = {5: ServiceState(100, 100, "up" if announced else "draining", announced)}
    return Route.of(prefix(number), str(address), encode(Identity(cluster, address, 1, services)))


def router(*routes: Route, up: bool = True, since: float = LONG_AGO, address: str = "10.0.0.1") -> NeighborRib:
    held = {route.prefix: route for route in routes}
    return NeighborRib(address, up, since, routes=held, negotiated=frozenset({"ipv4"}))


def floor(*announcers: int, own: int = 1) -> Quorum:
    made = Quorum()
    vip = Route.of("10.99.0.1/32", f"10.0.0.{own}")
    made.reset(DesiredRoutes((identity(own), vip), (identity(own, announced=False),), tuple(map(prefix, announcers))))
    return made


@pytest.mark.parametrize(
    ("announcers", "remaining", "holds"),
    [
        ((1, 2, 3, 4), (2, 3, 4), False),
        ((1, 2, 3, 4), (2, 3), False),
        ((1, 2, 3, 4), (2,), True),
        ((1, 2, 3, 4), (), True),
        ((1, 2, 3), (2, 3), False),
        ((1, 2, 3), (2,), True),
        ((1, 2), (2,), False),
        ((1, 2), (), True),
        ((1,), (), True),
        ((), (), False),
        ((1, 2, 3, 4), (5, 6, 7, 8), True),
    ],
)
def test_vips_stay_while_fewer_than_half_of_the_announcers_remain(
    announcers: tuple[int, ...], remaining: tuple[int, ...], holds: bool
) -> None:
    made = floor(*announcers)
    made.observe([router(*map(identity, remaining))], NOW)
    assert made.lost is holds


def test_own_reflection_does_not_count_as_another_that_remains() -> None:
    made = floor(1, 2)
    made.observe([router(identity(1))], NOW)
    assert made.lost


def test_those_whose_agents_are_silent_do_not_remain_though_they_are_learned() -> None:
    made = floor(1, 2, 3, 4)
    made.observe([router(identity(2), identity(3, announced=False), identity(4, announced=False))], NOW)
    assert made.lost


def test_another_cluster_s_identity_under_the_prefix_does_not_count() -> None:
    made = floor(1, 2)
    made.observe([router(identity(2, cluster=8))], NOW)
    assert made.lost


def test_one_of_several_routers_is_enough() -> None:
    made = floor(1, 2, 3)
    made.observe([router(identity(2)), router(identity(3), address="10.0.0.2")], NOW)
    assert not made.lost


def test_routers_that_are_away_or_have_just_come_back_say_nothing_of_who_is_gone() -> None:
    made = floor(1, 2, 3)
    made.observe([router(up=False)], NOW)
    assert not made.lost
    made.observe([router(since=NOW)], NOW + 1)
    assert not made.lost
    made.observe([router(identity(2), identity(3), since=NOW)], NOW + 2)
    made.observe([router(since=NOW)], NOW + REFRESH_S)
    assert made.lost
    # But it is believed when it says that their agents are silent.
    made = floor(1, 2, 3)
    made.observe([router(identity(2, announced=False), identity(3, announced=False), since=NOW)], NOW + 1)
    assert made.lost


def test_a_wish_begins_anew() -> None:
    made = floor(1, 2)
    made.observe([router()], NOW)
    assert made.lost
    made.reset(DesiredRoutes((), (identity(1),), (prefix(1), prefix(2))))
    assert not made.lost


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 2, 1, 3)])
def test_relays_whose_agents_fall_silent_one_after_the_other_come_to_rest_with_all_vips(order: tuple[int, ...]) -> None:
    """Each tells what it announces; nobody's decision changes what the others count."""
    floors = {number: floor(1, 2, 3, 4, own=number) for number in order}
    silent: list[int] = []
    held = []
    for number in order:
        silent.append(number)
        told = router(*(identity(n, announced=n not in silent) for n in order))
        for one in silent:
            floors[one].observe([told], NOW)
        held.append([floors[one].lost for one in silent])
    assert held == [[False], [False] * 2, [True] * 3, [True] * 4]
