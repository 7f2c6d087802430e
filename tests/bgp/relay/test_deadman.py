# SPDX-License-Identifier: Apache-2.0
"""What the relay announces for an agent that is silent or stops: the dead man, with the reconciler."""

from ipaddress import IPv4Address, ip_network

import pytest
from support.exabgp_model import (
    ALLOWED,
    DRAINING,
    IDENTITY,
    PEER,
    VIP,
    ExaBGPModel,
    converse,
    started,
    update,
)

from bgp.community import Identity, encode
from bgp.relay.allowlist import Exactly
from bgp.relay.deadman import DEADMAN_S, SETTLE_S
from bgp.relay.protocol import DesiredRoutes
from bgp.route import Route

V, I = {VIP.prefix: VIP}, {IDENTITY.prefix: IDENTITY}  # noqa: E741


def test_deadman_withdraws_the_vip_and_keeps_the_identity_draining():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 5.0)
    converse(reconciler, exabgp, 5.0)
    reconciler.tick(5.0 + DEADMAN_S)
    converse(reconciler, exabgp, 5.0 + DEADMAN_S)
    assert exabgp.announced.keys() == {VIP.prefix, IDENTITY.prefix}
    assert not reconciler.snapshot().deadman
    reconciler.tick(5.1 + DEADMAN_S)
    converse(reconciler, exabgp, 5.1 + DEADMAN_S)
    assert exabgp.announced == {IDENTITY.prefix: DRAINING}
    assert reconciler.snapshot().deadman
    reconciler.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 20.0)
    converse(reconciler, exabgp, 20.0)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: IDENTITY}
    assert not reconciler.snapshot().deadman


def test_successor_without_an_agent_withdraws_everything_after_the_deadman_time():
    exabgp = ExaBGPModel(announced=[VIP, IDENTITY])
    reconciler = started(exabgp)
    reconciler.tick(DEADMAN_S)
    converse(reconciler, exabgp, DEADMAN_S)
    assert exabgp.announced.keys() == {VIP.prefix, IDENTITY.prefix}
    reconciler.tick(DEADMAN_S + 0.1)
    converse(reconciler, exabgp, DEADMAN_S + 0.1)
    assert exabgp.announced == {}


def test_pool_of_nat_is_announced_and_withdrawn_by_the_dead_man_as_vips_are():
    exabgp = ExaBGPModel()
    pool, inside = (Route.of(prefix, "10.0.0.11") for prefix in ("10.255.0.0/27", "10.255.0.0/28"))
    reconciler = started(exabgp)
    reconciler.set_allowed([*ALLOWED, Exactly(ip_network(pool.prefix))], ALLOWED, 1.0)
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY, pool, inside), (DRAINING,)), 1.0)
    converse(reconciler, exabgp, 1.0)
    assert exabgp.announced == V | I | {pool.prefix: pool}
    assert "refused to announce 10.255.0.0/28: neither" in reconciler.snapshot().error
    reconciler.tick(12.0)
    converse(reconciler, exabgp, 12.0)
    assert exabgp.announced == {DRAINING.prefix: DRAINING}
    reconciler.set_desired(DesiredRoutes((VIP, IDENTITY, pool), ()), 13.0)
    reconciler.set_allowed(ALLOWED, ALLOWED, 13.0)
    converse(reconciler, exabgp, 13.0)
    assert exabgp.announced == V | I, "a pool that is no longer allowed is withdrawn"


def test_vips_of_a_silent_agent_stay_next_to_its_fallback_without_a_quorum():
    fallback = Route.of(IDENTITY.prefix, IDENTITY.next_hop, [[65001, 1, 2]])
    desired = DesiredRoutes((IDENTITY, VIP), (fallback,), (IDENTITY.prefix, "10.254.0.12/32"))
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    reconciler.set_desired(desired, 500.0)
    converse(reconciler, exabgp, 500.0)
    silent = 500.0 + DEADMAN_S + 1
    reconciler.tick(silent)
    converse(reconciler, exabgp, silent)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: fallback}
    assert (reconciler.snapshot().deadman, reconciler.snapshot().held) == (True, True)
    # The agent is back: only the identity has changed meanwhile.
    reconciler.set_desired(desired, silent + 1)
    converse(reconciler, exabgp, silent + 1)
    assert exabgp.announced == {VIP.prefix: VIP, IDENTITY.prefix: IDENTITY}
    assert not reconciler.snapshot().held


def announcing(prefix: str, address: str, announced: bool = True) -> Route:
    """Return the identity of a node of the tests' cluster."""
    return Route.of(prefix, address, encode(Identity(65001, IPv4Address(address), announces=announced)))


@pytest.mark.parametrize("others_stop", [False, True])
def test_agent_that_stops_has_its_vips_withdrawn_unless_the_others_stop_too(others_stop: bool):
    own, b2, b3 = (f"10.254.0.{number}/32" for number in (11, 12, 13))
    fallback = announcing(own, "10.0.0.11", announced=False)
    desired = DesiredRoutes((announcing(own, "10.0.0.11"), VIP), (fallback,), (own, b2, b3))
    others = [announcing(b2, "10.0.0.12"), announcing(b3, "10.0.0.13")]
    exabgp = ExaBGPModel(learned=others)
    reconciler = started(exabgp)
    reconciler.set_desired(desired, 500.0)
    converse(reconciler, exabgp, 500.0)
    reconciler.stop_agent(500.1)
    converse(reconciler, exabgp, 500.1)
    assert exabgp.announced == {own: fallback, VIP.prefix: VIP}, "others learn of it before the VIP is decided about"
    assert not reconciler.snapshot().deadman, "it is not decided yet"
    if others_stop:
        for route, address in zip(others, ("10.0.0.12", "10.0.0.13"), strict=True):
            reconciler.receive(update(PEER, [announcing(route.prefix, address, announced=False)]), 500.2)
    reconciler.tick(500.1 + SETTLE_S)
    converse(reconciler, exabgp, 500.1 + SETTLE_S)
    assert exabgp.announced == {own: fallback} | ({VIP.prefix: VIP} if others_stop else {})
    assert (reconciler.snapshot().deadman, reconciler.snapshot().held) == (True, others_stop)
    # The next agent announces as if nothing had been.
    reconciler.set_desired(desired, 503.0)
    converse(reconciler, exabgp, 503.0)
    assert exabgp.announced.keys() == {own, VIP.prefix}
    assert not reconciler.snapshot().deadman


def test_stop_of_an_agent_that_was_silent_brings_no_vip_back():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 1.0)
    converse(reconciler, exabgp, 1.0)
    for now in (2.0 + DEADMAN_S, 3.0 + DEADMAN_S):
        reconciler.stop_agent(now) if now > 2.0 + DEADMAN_S else reconciler.tick(now)
        converse(reconciler, exabgp, now)
        assert exabgp.announced == {DRAINING.prefix: DRAINING}


def test_stop_without_desired_routes_changes_nothing_before_the_dead_man():
    exabgp = ExaBGPModel(announced=[VIP])
    reconciler = started(exabgp)
    reconciler.stop_agent(1.0)
    reconciler.tick(2.0)
    converse(reconciler, exabgp, 2.0)
    assert exabgp.announced == V


def test_vips_of_a_silent_agent_are_withdrawn_without_announcers():
    exabgp = ExaBGPModel()
    reconciler = started(exabgp)
    reconciler.set_desired(DesiredRoutes((IDENTITY, VIP), (DRAINING,)), 500.0)
    converse(reconciler, exabgp, 500.0)
    reconciler.tick(500.0 + DEADMAN_S + 1)
    converse(reconciler, exabgp, 500.0 + DEADMAN_S + 1)
    assert exabgp.announced == {IDENTITY.prefix: DRAINING}
    assert (reconciler.snapshot().deadman, reconciler.snapshot().held) == (True, False)
