# SPDX-License-Identifier: Apache-2.0
"""What clients on a node itself miss while its own server does not take new connections."""

import pytest

from agent.config.file import parse
from agent.control.status import local_clients
from agent.health.rise_fall import Health
from agent.model import Share, State

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
WEB = parse(TEXT, "lb.yml").services[0]


@pytest.mark.parametrize(
    ("healthy", "state", "condition"),
    [
        (True, State.UP, None),
        (False, State.UP, "unhealthy"),
        (True, State.DRAINING, "draining"),
        (False, State.DRAINING, "unhealthy"),
        (True, State.LEFT, "left"),
    ],
)
def test_local_clients(healthy: bool, state: State, condition: str | None) -> None:
    line = local_clients(WEB, Share(100, 0, state), Health(healthy, 0, 1.0, ""))
    only = "clients on this node itself reach 192.0.2.10 at its own server only"
    assert line == (condition and f"{only}, which is {condition}: the VIP is on lo")
