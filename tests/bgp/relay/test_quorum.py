# SPDX-License-Identifier: Apache-2.0
"""The quorum of announcers: when a silent agent's VIPs stay, and that the relays' decisions converge."""

from ipaddress import IPv4Address

import pytest

from bgp.community import Identity, encode
from bgp.relay.adj_rib_in import NeighborRib
from bgp.relay.protocol import DesiredRoutes
from bgp.relay.quorum import REFRESH_S, Quorum
from bgp.route import Route

CLUSTER = 7
LONG_AGO, NOW = 0.0, 1000.0


def prefix(number: int) -> str:
    return f"10.254.0.{number}/32"


def identity(number: int, announces: bool = True, cluster: int = CLUSTER) -> Route:
    address = IPv4Address(f"10.0.0.{number}")
    return Route.of(prefix(number), str(address), encode(Identity(cluster, address, announces=announces)))


def router(*routes: Route, up: bool = True, since: float = LONG_AGO, address: str = "10.0.0.1") -> NeighborRib:
    neighbor = NeighborRib(address, up, since, negotiated=frozenset({"ipv4"}))
    for route in routes:
        neighbor.rib.put(route)
    return neighbor


def quorum_of(*announcers: int, own: int = 1) -> Quorum:
    quorum = Quorum()
    vip = Route.of("10.99.0.1/32", f"10.0.0.{own}")
    quorum.reset(DesiredRoutes((identity(own), vip), (identity(own, announces=False),), tuple(map(prefix, announcers))))
    return quorum


@pytest.mark.parametrize(
    ("announcers", "remaining", "lost"),
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
    announcers: tuple[int, ...], remaining: tuple[int, ...], lost: bool
) -> None:
    quorum = quorum_of(*announcers)
    quorum.observe([router(*map(identity, remaining))], NOW)
    assert quorum.lost is lost


def test_own_reflected_identity_does_not_count() -> None:
    quorum = quorum_of(1, 2)
    quorum.observe([router(identity(1))], NOW)
    assert quorum.lost


def test_node_with_a_silent_agent_does_not_remain_though_its_identity_is_learned() -> None:
    quorum = quorum_of(1, 2, 3, 4)
    quorum.observe([router(identity(2), identity(3, announces=False), identity(4, announces=False))], NOW)
    assert quorum.lost


def test_identity_of_another_cluster_does_not_count() -> None:
    quorum = quorum_of(1, 2)
    quorum.observe([router(identity(2, cluster=8))], NOW)
    assert quorum.lost


def test_identity_from_one_of_several_routers_counts() -> None:
    quorum = quorum_of(1, 2, 3)
    quorum.observe([router(identity(2)), router(identity(3), address="10.0.0.2")], NOW)
    assert not quorum.lost


def test_missing_identity_proves_nothing_while_a_session_is_down_or_new() -> None:
    quorum = quorum_of(1, 2, 3)
    quorum.observe([router(up=False)], NOW)
    assert not quorum.lost
    quorum.observe([router(since=NOW)], NOW + 1)
    assert not quorum.lost
    quorum.observe([router(identity(2), identity(3), since=NOW)], NOW + 2)
    quorum.observe([router(since=NOW)], NOW + REFRESH_S)
    assert quorum.lost
    # But the fallback of a silent agent counts at once.
    quorum = quorum_of(1, 2, 3)
    quorum.observe([router(identity(2, announces=False), identity(3, announces=False), since=NOW)], NOW + 1)
    assert quorum.lost


def test_reset_starts_from_the_new_list() -> None:
    quorum = quorum_of(1, 2)
    quorum.observe([router()], NOW)
    assert quorum.lost
    quorum.reset(DesiredRoutes((), (identity(1),), (prefix(1), prefix(2))))
    assert not quorum.lost


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 2, 1, 3)])
def test_relays_whose_agents_fall_silent_in_turn_converge_to_all_vips(order: tuple[int, ...]) -> None:
    """No relay's decision changes what the others count."""
    quorums = {number: quorum_of(1, 2, 3, 4, own=number) for number in order}
    silent: list[int] = []
    held = []
    for number in order:
        silent.append(number)
        learned = router(*(identity(n, announces=n not in silent) for n in order))
        for one in silent:
            quorums[one].observe([learned], NOW)
        held.append([quorums[one].lost for one in silent])
    assert held == [[False], [False] * 2, [True] * 3, [True] * 4]
