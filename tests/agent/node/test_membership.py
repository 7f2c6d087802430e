# SPDX-License-Identifier: Apache-2.0
"""What brings the asker, the channel and the view together, without sockets."""

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from support.channel_network import state
from support.echo_net import answer

from agent.config.file import parse
from agent.model import Member
from agent.node.membership import Membership
from agent.node.plan import ThisNode

OWN, OTHER = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")
CONFIG = parse(
    """\
cluster: 7
node: {interface: eth0}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
bgp: {local_as: 65001, user: root, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], static: [10.0.0.12], key: none}
""",
    "lb.yml",
)


def membership() -> Membership:
    return Membership(ThisNode(CONFIG, OWN, None, None, (1,)), 1, (), (), None, lambda: None)


def test_nodes_of_other_clusters_are_named_in_a_bounded_number_of_lines() -> None:
    """Anybody in members.allow can send such a question, under any address of it."""
    made = membership()
    made._note_foreign(OTHER, 8)
    made._note_foreign(IPv6Address("fd00::12"), 8)
    lines = made.problems()
    assert [line.split(":")[0] for line in lines if "10.0.0.12" in line] == [
        "10.0.0.12 speaks for cluster 8, this node for cluster 7"
    ]
    assert any(line.startswith("fd00::12 speaks for cluster 8") for line in lines)
    for number in range(10_000):
        made._note_foreign(IPv4Address(0x0A00_0000 + number), number)
    assert len(made.problems()) < 20


def test_a_node_that_answers_again_is_greeted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what it changed while it was away would be known only with the next HELLO, half a minute later."""
    made = membership()
    greeted: list[IPv4Address] = []
    monkeypatch.setattr(made._channel, "wake", lambda address, now: greeted.append(address))
    made.read(None, connected=False)
    made.observe(time.monotonic())
    question = next(one for one in made._asker.step(time.monotonic()) if one.address == OTHER)
    made._on_asked()
    assert greeted == []
    made._receive_answer(OTHER, answer(question))
    made._on_asked()
    assert greeted == [OTHER]


@pytest.mark.parametrize(("own", "other"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_node_whose_rows_differ_because_of_claims_is_named(own: bool, other: bool) -> None:
    """Also where one of both has no data path: it has no rows that could differ."""
    table = CONFIG.table.model_copy(update={"claims": own})
    config = CONFIG.model_copy(update={"table": table})
    made = Membership(
        ThisNode(config, OWN, None, None, (1,)),
        1,
        [Member(OTHER, (1,), {}, False, 0.0, "", boot=7)],
        (),
        None,
        lambda: None,
    )
    made.publish({}, True)
    assert made._own_state.state is not None
    assert made._own_state.state.reads_claims == own
    made._channel._states[OTHER] = replace(state(), reads_claims=other)
    made.read(None, connected=False)
    made.observe(time.monotonic())
    lines = [line for kind, _, line in made.obstacles if kind == "claims"]
    assert len(lines) == (own != other)
    assert all("10.0.0.12 has " in line and "set table.claims alike on all nodes" in line for line in lines)
