# SPDX-License-Identifier: Apache-2.0
"""Flows for `lbctl explain`. Its responses are compared with a running cluster in tests/cluster/test_agent.py."""

import pytest

from agent.control.explain import parse
from agent.errors import AgentError


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
