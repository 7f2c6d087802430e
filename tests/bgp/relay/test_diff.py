# SPDX-License-Identifier: Apache-2.0
"""The changes between the routes advertised and the desired ones, and their order."""

import pytest
from support.exabgp_model import DRAINING, IDENTITY, OTHER, PEER, VIP

from bgp.relay.diff import RouteChange, diff

V, I = {VIP.prefix: VIP}, {IDENTITY.prefix: IDENTITY}  # noqa: E741


@pytest.mark.parametrize(
    ("announced", "wanted", "expected"),
    [
        ({PEER: {}}, {PEER: {}}, []),
        ({PEER: {}}, {PEER: V}, [RouteChange(PEER, VIP, True)]),
        ({}, {PEER: V}, [RouteChange(PEER, VIP, True)]),
        ({PEER: V}, {PEER: V}, []),
        ({PEER: V}, {PEER: {}}, [RouteChange(PEER, VIP, False)]),
        ({PEER: V}, {}, []),  # a neighbor of which nothing is known yet
        ({PEER: I}, {PEER: {DRAINING.prefix: DRAINING}}, [RouteChange(PEER, DRAINING, True)]),
        ({PEER: V}, {PEER: I}, [RouteChange(PEER, IDENTITY, True), RouteChange(PEER, VIP, False)]),
        ({PEER: V, OTHER: {}}, {PEER: V, OTHER: V}, [RouteChange(OTHER, VIP, True)]),
        (
            {PEER: {}, OTHER: V},
            {PEER: I, OTHER: {}},
            [RouteChange(PEER, IDENTITY, True), RouteChange(OTHER, VIP, False)],
        ),
    ],
)
def test_diff(announced, wanted, expected):
    assert diff(announced, wanted) == expected
