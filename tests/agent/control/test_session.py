# SPDX-License-Identifier: Apache-2.0
"""What a request about sessions may name. The responses are tested through lbctl: tests/agent/cli/test_session.py."""

from ipaddress import ip_address, ip_network

import pytest
from support.session_slots import POOLS, SLOTS

from agent.config.nat import NatConfig
from agent.control.session import Sessions, one, parse_end, selection, slot_at
from agent.errors import AgentError

NAT = NatConfig.model_construct(pool=POOLS[4], pool6=POOLS[6], sessions=SLOTS)


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("0", 0),
        ("65535", 65_535),
        ("10.255.0.0:32768", 0),
        ("10.255.0.1:65535", 65_535),
        ("[fd00:ff::1]:32769", 32_769),
        ("tcp,192.0.2.7:41000,10.99.0.1:443", None),
        ("legacy", None),
    ],
)
def test_slots(text: str, slot: int | None) -> None:
    assert slot_at(text, NAT.pools, SLOTS) == slot


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("65536", "slot 65536 is not in 0-65535"),
        ("10.255.0.2:40000", "10.255.0.2 is no NAT address; sessions have 10.255.0.0 to 10.255.0.1, and fd00:ff:: to"),
        ("10.254.255.255:40000", "is no NAT address"),
        ("10.255.0.1", "10.255.0.1: sessions have the ports 32768 to 65535; write 10.255.0.1:40000"),
        ("[fd00:ff::]:443", r"sessions have the ports 32768 to 65535; write \[fd00:ff::\]:40000"),
        ("10.255.0.1:65536", "port 65536 is not in 1-65535"),
        ("10.255.0.256:40000", "'10.255.0.256:40000' is not an address or an endpoint"),
    ],
)
def test_what_is_no_slot(text: str, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        slot_at(text, NAT.pools, SLOTS)


def test_slots_of_the_former_pool() -> None:
    pools = [*NAT.pools, ip_network("10.254.0.0/27")]
    assert slot_at("10.254.0.1:40000", pools, SLOTS) == slot_at("10.255.0.1:40000", pools, SLOTS)
    with pytest.raises(AgentError, match=r"10\.254\.0\.2 is no NAT address; .*, and 10\.254\.0\.0 to 10\.254\.0\.1"):
        slot_at("10.254.0.2:40000", pools, SLOTS)


def test_backends() -> None:
    assert parse_end("10.9.0.11") == (ip_address("10.9.0.11"), None)
    assert parse_end("10.9.0.11:8443") == (ip_address("10.9.0.11"), 8443)
    assert parse_end("fd00:9::11") == (ip_address("fd00:9::11"), None)
    assert parse_end("[fd00:9::11]:80") == (ip_address("fd00:9::11"), 80)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"service": ""}, "'' is not a NAT service of this node; it has dns, web"),
        ({"client": ""}, "client: '' does not appear to be an IPv4 or IPv6 network"),
        ({"backend": ""}, "'' is not an address or an endpoint"),
        ({"state": ""}, " is not a state; a session is half-open"),
        ({"service": "wep"}, "wep is not a NAT service of this node; it has dns, web"),
        ({"client": "192.0.2.7/24"}, "client: 192.0.2.7/24 has host bits set"),
        ({"client": "here"}, "client: 'here' does not appear to be"),
        ({"pool": "10.255.0.1/27"}, "pool: 10.255.0.1/27 has host bits set"),
        ({"backend": "10.9.0.11:0"}, "port 0 is not in 1-65535"),
        ({"backend": "b1"}, "'b1' is not an address or an endpoint; write 10.9.0.11 or 10.9.0.11:8443"),
        ({"state": "open"}, "open is not a state; a session is half-open, established"),
    ],
)
def test_selections_that_are_refused(query: dict[str, str], message: str) -> None:
    with pytest.raises(AgentError, match=message):
        selection(query, {3: "web", 4: "dns"}, ())


def test_without_nat() -> None:
    with pytest.raises(AgentError, match="this node has no sessions: no service has mode: nat"):
        one(Sessions(None, None, []), "5")
