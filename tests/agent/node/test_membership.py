# SPDX-License-Identifier: Apache-2.0
"""What brings the asker, the channel and the view together, without sockets."""

import time
from ipaddress import IPv4Address, IPv6Address

import pytest
from support.echo_net import answer

from agent.config.file import parse
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
