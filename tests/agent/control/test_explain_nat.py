# SPDX-License-Identifier: Apache-2.0
"""`lbctl explain` for a flow of a NAT service, and for what its backend sees as the client."""

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.nat_config import nat_config
from support.session_slots import CLIENT, Slots

from agent.config.epoch import supported_epochs
from agent.control.explain import Forwarding, parse
from agent.control.explain_nat import explain
from agent.control.session import Sessions, nat_row
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.sessions.keeper import SessionKeeper
from agent.table.epoch import EpochUse
from bpf.layout.session import WAYS
from bpf.maps.session_map import now_tick

TEXT = """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 10.99.0.1, protocol: tcp, port: 443, mode: nat, backends: [{address: 10.9.0.11, port: 8443}]}
  - name: dns
    vip: 10.99.0.1
    protocol: udp
    port: 53
    mode: nat
    health: {port: 53}
    backends: [{address: 10.9.0.11, port: 53}]
  - {name: plain, vip: 10.99.0.1, protocol: tcp, port: 80}
nat: {pool: 10.255.0.0/31, sessions: 65536, forward: ipip}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
FLOW = "tcp,192.0.2.7:41000,10.99.0.1:443"
B1, B2, B3 = (IPv4Address(f"10.0.0.{last}") for last in (11, 12, 13))


@pytest.fixture
def world() -> Any:
    """b1, b2 and b3; each row's chain is b1, b2, and sessions are those of b2."""
    config = nat_config(TEXT)
    slots, asked, chain = Slots(), [], [B1, B2]
    keeper = cast(SessionKeeper, SimpleNamespace(table=slots.table, service_names={3: "web"}))
    epochs = supported_epochs(config)
    writer = SimpleNamespace(
        use=EpochUse(epochs[0].number),
        chain=lambda *of: asked.append(of) or chain,
        nodes=SimpleNamespace(silent={}, awaited=lambda _: []),
    )
    node = Forwarding(config, epochs, cast(MapWriter, writer), [B1, B2, B3], [])
    sessions = Sessions(keeper, config.nat, epochs)
    return SimpleNamespace(
        slots=slots, asked=asked, chain=chain, epoch=epochs[0], explain=lambda text: explain(node, sessions, text, 0)
    )


def test_flow_of_a_nat_service(world: Any) -> None:
    found = world.explain(FLOW)
    row = nat_row(world.epoch, parse(FLOW))
    assert world.asked == [("(nat)", world.epoch.number, row)]
    assert (found["service"], found["forward"], found["row"], found["session"]) == ("web", "ipip", row, None)
    first = {
        "node": str(B1),
        "syn": "forward_backend: a new session is made here",
        "held": "forward_backend: its session is here",
        "not_held": f"forward to {B2} (hop 1)",
    }
    others = dict.fromkeys(("syn", "held", "not_held"), f"forward to {B1} (hop 1)")
    assert found["nodes"][0] == first
    assert found["nodes"][2] == {"node": str(B3), **others}
    world.slots.put(row * WAYS + 3, now=now_tick())
    found = world.explain(FLOW)
    assert (found["slot"], found["session"]["client"]) == (row * WAYS + 3, f"{CLIENT}:41000")


def test_what_a_backend_sees(world: Any) -> None:
    world.slots.put(40_000, now=now_tick())
    found = world.explain("10.255.0.1:40000")
    assert world.asked == [("(nat)", world.epoch.number, 904)]
    assert (found["service"], found["slot"], found["row"]) == ("web", 40_000, 904)
    assert found["session"]["nat"] == "10.255.0.1:40000"
    assert found["nodes"][0] == {
        "node": str(B1),
        "held": "forward_client: its session is here",
        "not_held": f"forward to {B2} (hop 1)",
    }
    found = world.explain("10.255.0.1:40001")
    assert (found["service"], found["session"]) == (None, None)
    with pytest.raises(AgentError, match=r"10\.255\.0\.2 is no NAT address"):
        world.explain("10.255.0.2:40000")


def test_the_end_of_the_chain(world: Any) -> None:
    """The row has b1 alone."""
    world.chain.remove(B2)
    assert world.explain(FLOW)["nodes"][0]["not_held"] == "reply_reset: no node is left to try"
    assert world.explain("40000")["nodes"][0]["not_held"] == "drop_nat_foreign: no node is left to try"
    assert world.explain("udp 192.0.2.7:41000 10.99.0.1:53")["nodes"][0] == {
        "node": str(B1),
        "syn": "forward_backend: a new session is made here",
        "held": "forward_backend: its session is here",
        "not_held": "forward_backend: a new session is made here",
    }


def test_other_services_are_explained_as_ever(world: Any) -> None:
    found = world.explain("tcp,192.0.2.7:41000,10.99.0.1:80")
    assert (found["service"], found["affinity"], "session" in found) == ("plain", "5-tuple", False)
    assert world.asked[0][0] == "plain"
