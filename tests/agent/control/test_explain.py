# SPDX-License-Identifier: Apache-2.0
"""Flows for `lbctl explain`; tests/cluster/node_agent/test_commands.py compares its responses with a cluster."""

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import cast

import pytest

from agent.config import file
from agent.config.epoch import supported_epochs
from agent.control.explain import Forwarding, explain, parse
from agent.errors import AgentError
from agent.forwarding.map_writer import MapWriter
from agent.table.epoch import EpochUse

TEXT = """\
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 10.99.0.1, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24]}
"""
CONFIG = file.parse(TEXT, "lb.yml")


@pytest.mark.parametrize(
    ("text", "flow"),
    [
        ("tcp 10.1.0.2:4000 10.99.0.1:7000", "tcp 10.1.0.2:4000 10.99.0.1:7000"),
        (" UDP,10.1.0.2:4000, 10.99.0.1:53", "udp 10.1.0.2:4000 10.99.0.1:53"),
        ("tcp,[2001:DB8::7]:4000,[2001:db8:99::1]:443", "tcp [2001:db8::7]:4000 [2001:db8:99::1]:443"),
    ],
)
def test_flows(text: str, flow: str) -> None:
    assert str(parse(text)) == flow


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcp 10.1.0.2 10.99.0.1:7000", "is not a flow"),
        ("sctp 10.1.0.2:1 10.99.0.1:7000", "is not a flow"),
        ("tcp 2001:db8::7:4000 [2001:db8::1]:7000", "is not a flow"),
        ("tcp 10.1.0.256:1 10.99.0.1:7000", "does not appear to be an IPv4 or IPv6 address"),
        ("tcp [fe80]:1 10.99.0.1:7000", "does not appear to be an IPv4 or IPv6 address"),
        ("tcp 10.1.0.2:0 10.99.0.1:7000", "port 0 is not in 1-65535"),
        ("tcp [2001:db8::7]:1 10.99.0.1:7000", "an IPv6 client does not reach an IPv4 VIP"),
    ],
)
def test_invalid_flows(text: str, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        parse(text)


def test_silent_nodes_are_passed_over() -> None:
    """b1 owns the row and fell silent at 50 ns: until 100 ns its connections are waited for."""
    b1, b2, b3 = (IPv4Address(f"10.0.0.{last}") for last in (11, 12, 13))
    epochs = supported_epochs(CONFIG)
    writer = SimpleNamespace(
        use=EpochUse(epochs[0].number),
        chain=lambda *_: [b1, b2],
        nodes=SimpleNamespace(silent={b1: 100}, awaited=lambda now_ns: [b1] if now_ns < 100 else []),
    )
    node = Forwarding(CONFIG, epochs, cast(MapWriter, writer), [b2, b3], [])
    found = explain(node, "tcp,192.0.2.7:41000,10.99.0.1:443", now_ns=50)
    assert (found["tried"], found["silent"]) == ([str(b1), str(b2)], [str(b1)])
    assert found["nodes"] == [
        {
            "node": str(b2),
            "syn": "deliver_owner: a new connection, and this node owns the row or those before it are silent",
            "held": "deliver_socket: its connection is here",
            "not_held": "drop_silent: no node is left to try, but a silent one may have it: TCP sends again",
        },
        {"node": str(b3), **dict.fromkeys(("syn", "held", "not_held"), f"forward to {b2} (hop 1)")},
    ]
    later = explain(node, "tcp,192.0.2.7:41000,10.99.0.1:443", now_ns=100)
    assert later["nodes"][0]["not_held"] == "deliver_chain_end: no node is left to try: the kernel answers (RST)"
