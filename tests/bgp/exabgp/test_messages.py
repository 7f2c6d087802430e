# SPDX-License-Identifier: Apache-2.0
"""The lines that ExaBGP 5.0.15 writes to its helper, recorded (with shorter headers), and malformed ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.exabgp.messages import (
    Answer,
    EndOfRib,
    ListedRoute,
    NeighborList,
    NeighborStatus,
    SessionChange,
    Update,
    VersionAnswer,
    parse,
)
from bgp.route import Route

NEIGHBOR = (
    '"neighbor": { "address": { "local": "10.0.0.11", "peer": "10.0.0.1" }, '
    '"asn": { "local": 65001, "peer": 65000 }, "router-id": "10.0.0.11" , %s }'
)
EVENT = '{ "exabgp": "5.0.0", "time": 1795220056.1, "pid" : 5883, "counter": 4, "type": "%s", ' + NEIGHBOR + " }"
ATTRIBUTE = (
    '"attribute": { "origin": "igp", "as-path": {"0": {"element": "as-sequence", "value": [65000, 65001]}}, '
    '"large-community": [ [ 65001, 536870912 , 7 ], [ 65001, 268435456 , 2 ] ] }'
)
COMMUNITIES = ((65001, 268435456, 2), (65001, 536870912, 7))
PEER = "10.0.0.1"


def event(kind: str, content: str) -> str:
    return EVENT % (kind, content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("done", Answer(True)),
        ("error", Answer(False)),
        ("exabgp 5.0.15", VersionAnswer("5.0.15")),
        (event("state", '"state": "up"'), SessionChange(PEER, True)),
        (
            event("state", '"state": "down", "reason": "notification received (6,4)"'),
            SessionChange(PEER, False, "reset at the router; NOTIFICATION 6/4 received (Cease, Administrative Reset)"),
        ),
        (event("state", '"state": "connected"'), None),
        (
            event(
                "update",
                '"direction": "receive", "message": { "update": { ' + ATTRIBUTE + ', "announce": { "ipv4 unicast": '
                '{ "10.0.0.12": [ { "nlri": "10.254.0.12/32" }, { "nlri": "10.254.0.13/32" } ] } } } }',
            ),
            Update(
                PEER,
                (
                    Route("10.254.0.12/32", "10.0.0.12", COMMUNITIES, (65000, 65001)),
                    Route("10.254.0.13/32", "10.0.0.12", COMMUNITIES, (65000, 65001)),
                ),
                (),
            ),
        ),
        (
            event(
                "update", '"message": { "update": { "withdraw": { "ipv4 unicast": [ { "nlri": "10.99.0.1/32" } ] } } }'
            ),
            Update(PEER, (), ("10.99.0.1/32",)),
        ),
        (
            event(
                "update",
                '"message": { "update": { "attribute": { "origin": "igp" }, "announce": { "ipv6 unicast": { '
                '"2001:db8::1": [ { "nlri": "2001:db8:1::/48" } ], "fe80::1": [{ "nlri": "2001:db8:1::/48" }] } } } }',
            ),
            Update(PEER, (Route("2001:db8:1::/48", "2001:db8::1"),), ()),
        ),
        (event("update", '"message": { "eor": { "afi" : "ipv4", "safi" : "unicast" } }'), EndOfRib(PEER, "ipv4")),
        (
            '{"peer": {"address": "10.0.0.1"}, "route": {"nlri": {"prefix": "10.254.0.11/32", "nexthop": "10.0.0.11", '
            '"family": {"afi": "ipv4", "safi": "unicast"}}, "attributes": {"as-path": {"0": {"element": '
            '"as-sequence", "value": [65000]}}, "large-community": ["65001:268435456:2", "65001:536870912:7"]}}}',
            ListedRoute(PEER, Route("10.254.0.11/32", "10.0.0.11", COMMUNITIES, (65000,))),
        ),
        (
            '{"peer": {"address": "10.0.0.1"}, "route": {"nlri": {"prefix": "10.99.0.1/32", "nexthop": "10.0.0.11", '
            '"family": {"afi": "ipv4", "safi": "unicast"}}, "attributes": {}}}',
            ListedRoute(PEER, Route("10.99.0.1/32", "10.0.0.11")),
        ),
        (
            '{"peer": {"address": "10.0.0.1"}, "route": {"nlri": {"prefix": "2001:db8::1/128", '
            '"nexthop": "2001:db8::b", "family": {"afi": "ipv6", "safi": "unicast"}}, '
            '"attributes": {"as-path": {"0": {"element": "as-sequence", "value": [65001, 65001]}}, '
            '"med": 0, "community": ["65000:100", "no-export", "blackhole"]}}}',
            ListedRoute(
                PEER,
                Route(
                    "2001:db8::1/128",
                    "2001:db8::b",
                    as_path=(65001, 65001),
                    communities=((65000, 100), (65535, 666), (65535, 65281)),
                    med=0,
                ),
            ),
        ),
        (
            event(
                "update",
                '"message": { "update": { "attribute": { "med": 50, "community": [ [ 65000, 100 ] ] }, '
                '"announce": { "ipv4 unicast": { "10.0.0.12": [ { "nlri": "10.99.0.1/32" } ] } } } }',
            ),
            Update(PEER, (Route("10.99.0.1/32", "10.0.0.12", communities=((65000, 100),), med=50),), ()),
        ),
        (
            '[{"state": "down", "duration": 0, "fsm": "ESTABLISHED", "local": {"families": {"ipv4 unicast": true, '
            '"ipv6 unicast": true}, "address": "10.0.0.11", "as": 65001}, "peer": {"families": {"ipv4 unicast": true, '
            '"ipv6 unicast": false}, "address": "10.0.0.1", "as": 65000}, "families": ["ipv4 unicast"]}, '
            '{"state": "down", "duration": 9, "fsm": "IDLE", "local": {"families": {"ipv6 unicast": true}, '
            '"address": "fe80::b", "as": 65001}, "peer": {"families": {"ipv6 unicast": null}, '
            '"address": "fe80::1", "as": 65001}, '
            '"families": []}]',
            NeighborList(
                (
                    NeighborStatus(
                        "10.0.0.1",
                        True,
                        0.0,
                        65001,
                        65000,
                        "10.0.0.11",
                        frozenset({"ipv4", "ipv6"}),
                        frozenset({"ipv4"}),
                    ),
                    NeighborStatus("fe80::1", False, 9.0, 65001, 65001, "fe80::b", frozenset({"ipv6"})),
                )
            ),
        ),
        # Host bits beyond the prefix length are ignored; without a next hop there is no route.
        (
            '{"peer": {"address": "10.0.0.1"}, "route": {"nlri": {"prefix": "10.9.9.9/8", "nexthop": "10.0.0.1"}, '
            '"attributes": {}}}',
            ListedRoute(PEER, Route("10.0.0.0/8", "10.0.0.1")),
        ),
        (
            '{"peer": {"address": "10.0.0.1"}, "route": {"nlri": {"prefix": "10.9.0.0/16", "nexthop": null}, '
            '"attributes": {}}}',
            None,
        ),
        ("shutdown in progress", None),
        ("", None),
        ("[" * 100_000, None),
        ('{"exabgp": "5.0.0"}', None),
        ("[1]", None),
        ("7", None),
    ],
)
def test_recorded_lines(line, message):
    assert parse(line) == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["exabgp", "peer", "route", "type", "nlri"]), inner)
    ),
)


@given(st.text() | JSON.map(lambda value: __import__("json").dumps(value)))
def test_no_line_raises(line):
    parse(line)
