# SPDX-License-Identifier: Apache-2.0
"""Routes: canonical, checked, and rendered so that no other command can reach ExaBGP."""

import pytest

from bgp.errors import BgpError
from bgp.route import Route


def test_equal_routes_compare_equal_in_any_spelling():
    one = Route.of("2001:db8::/32", "2001:DB8:0::1", [[3, 2, 1], [1, 2, 3], [1, 2, 3]])
    other = Route.of("2001:0db8::/32", "2001:db8::1", [[1, 2, 3], [3, 2, 1]])
    assert one == other


def test_json_round_trip():
    route = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, 1, 2]], [65000, 65001], [[65000, 100]], 0, 3)
    assert Route.from_json(route.to_json()) == route
    own = Route.of("10.254.0.11/32", "10.0.0.11", next_hop_self=True)
    assert Route.from_json(own.to_json()) == own
    assert Route.of("10.254.0.11/32", "10.0.0.11").to_json().keys() == {
        "prefix",
        "next_hop",
        "large_communities",
        "as_path",
    }


def test_commands():
    route = Route.of("10.254.0.11/32", "10.0.0.11", [[65001, 1, 2], [65001, 3, 4]])
    assert route.announce_command("10.0.0.1") == (
        "neighbor 10.0.0.1 announce route 10.254.0.11/32 next-hop 10.0.0.11 large-community [ 65001:1:2 65001:3:4 ]"
    )
    assert Route.of("10.99.0.1/32", "10.0.0.11").announce_command("10.0.0.1") == (
        "neighbor 10.0.0.1 announce route 10.99.0.1/32 next-hop 10.0.0.11"
    )
    assert route.withdraw_command("fe80::1") == "neighbor fe80::1 withdraw route 10.254.0.11/32 next-hop 10.0.0.11"
    full = Route.of("10.99.0.1/32", "10.0.0.11", [[1, 2, 3]], communities=[[65000, 9], [65000, 1]], med=0, prepend=1)
    assert full.for_neighbor(65001, 65000, "10.0.0.11").announce_command("10.0.0.1") == (
        "neighbor 10.0.0.1 announce route 10.99.0.1/32 next-hop 10.0.0.11 as-path [ 65001 65001 ] med 0 "
        "community [ 65000:1 65000:9 ] large-community [ 1:2:3 ]"
    )
    assert "as-path" not in full.for_neighbor(65000, 65000, "10.0.0.11").announce_command("10.0.0.1")


@pytest.mark.parametrize(
    ("prefix", "next_hop", "local_address", "advertised"),
    [
        ("10.99.0.1/32", "10.0.0.11", "10.0.1.11", "10.0.1.11"),
        ("10.99.0.1/32", "10.0.0.11", "2001:db8::b", "10.0.0.11"),
        ("2001:db8:99::1/128", "2001:db8::b", "2001:db8:1::b", "2001:db8:1::b"),
        ("2001:db8:99::1/128", "2001:db8::b", "10.0.1.11", "2001:db8::b"),
        ("2001:db8:99::1/128", "2001:db8::b", "fe80::b", "2001:db8::b"),
    ],
)
def test_next_hop_self_is_our_address_of_the_session_if_usable(prefix, next_hop, local_address, advertised):
    own = Route.of(prefix, next_hop, next_hop_self=True)
    assert own.for_neighbor(65001, 65000, local_address) == Route.of(prefix, advertised)
    fixed = Route.of(prefix, next_hop)
    assert fixed.for_neighbor(65001, 65000, local_address) == fixed, "set by the operator"


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"prefix": "10.99.0.1/32"},
        {"prefix": "10.99.0.1/24", "next_hop": "10.0.0.1"},
        {"prefix": "10.99.0.1/32\nwithdraw route 10.0.0.0/8", "next_hop": "10.0.0.1"},
        {"prefix": "10.99.0.1/32", "next_hop": "self"},
        {"prefix": "2001:db8::1/128", "next_hop": "fe80::1%eth1\nwithdraw route 10.0.0.0/8"},
        {"prefix": "fe80::%x next-hop self\nreset/128", "next_hop": "2001:db8::b"},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "communities": [[65000, 65536]]},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "communities": [[1, 2, 3]]},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "med": -1},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "med": "1"},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "prepend": 17},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "prepend": None},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "next_hop_self": 1},
        {"prefix": "10.99.0.1/32", "next_hop": 1},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "large_communities": "1:2:3"},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "large_communities": [[1, 2]]},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "large_communities": [[1, 2, 1 << 32]]},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "large_communities": [[1, 2, True]]},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "as_path": [-1]},
        {"prefix": "10.99.0.1/32", "next_hop": "10.0.0.1", "large_comunities": []},
    ],
)
def test_malformed_route_is_refused(value):
    with pytest.raises(BgpError, match="route"):
        Route.from_json(value)
