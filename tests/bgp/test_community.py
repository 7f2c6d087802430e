# SPDX-License-Identifier: Apache-2.0
"""Identities as large communities: they decode as encoded, and malformed ones are refused with a reason."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import community
from bgp.community import Identity
from bgp.errors import BgpError

CLUSTER = 65001
A = IPv4Address("10.0.0.11")
U32 = st.integers(0, (1 << 32) - 1)
IDENTITIES = st.builds(
    Identity,
    st.integers(1, (1 << 32) - 2).filter(lambda c: c != 65535),
    U32.map(IPv4Address),
    st.none() | st.integers(0, (1 << 128) - 1).map(IPv6Address),
    U32,
    U32,
)


def test_the_wire_format_is_frozen():
    assert community.encode(Identity(CLUSTER, A, start=1_800_000_000)) == (
        (65001, 0x10000000, 0x0A00000B),
        (65001, 0x80000000, 1_800_000_000),
    )


def test_the_wire_format_of_an_announced_vip_is_frozen():
    identity = Identity(CLUSTER, A, start=7, announces=0x2144DF1C)
    encoded = community.encode(identity)
    assert encoded[2:] == ((65001, 0xB0000000, 0x2144DF1C),)
    # A reader that does not know the type decodes the rest.
    assert community.decode(encoded[:2], CLUSTER) == Identity(CLUSTER, A, start=7)


def test_the_wire_format_of_an_ipv6_address_is_frozen():
    identity = Identity(CLUSTER, A, IPv6Address("2001:db8:0:a::b"), 7)
    encoded = community.encode(identity)
    assert encoded[1:5] == (
        (65001, 0x40000000, 0x20010DB8),
        (65001, 0x50000000, 0x0000000A),
        (65001, 0x60000000, 0),
        (65001, 0x70000000, 0x0000000B),
    )
    for part in encoded[1:5]:
        left = [other for other in encoded if other != part]
        assert community.decode(left, CLUSTER) is None
        assert community.problem(left, CLUSTER) == "identity: cluster 65001 with 3 of the 4 parts of an IPv6 address"


def test_size_does_not_depend_on_what_a_node_serves():
    """A BGP message has 4,096 bytes; RFC 8092 section 3: 12 bytes each."""
    assert len(community.encode(Identity(CLUSTER, A, IPv6Address("2001:db8::b"), 7, announces=5))) == 7


def test_an_identity_without_a_start_decodes_as_start_0():
    assert community.decode([(CLUSTER, 1 << 28, int(A))], CLUSTER) == Identity(CLUSTER, A)


@given(IDENTITIES, st.permutations(range(4)))
def test_round_trip_in_any_order_among_other_communities(identity, order):
    # Unknown types, and further ones of a known type, are a later release's.
    later = [(identity.cluster, 15 << 28, 5), (identity.cluster, 8 << 28 | 1, 5), (identity.cluster, 1 << 28 | 3, 9)]
    communities = [*community.encode(identity), (1, 2, 3), *later]
    communities.sort(key=lambda c: order[hash(c) % 4])
    assert community.decode(communities, identity.cluster) == identity
    assert community.problem(communities, identity.cluster) is None


def test_identity_of_another_cluster_is_ignored():
    encoded = community.encode(Identity(64999, A))
    assert community.decode(encoded, CLUSTER) is None
    assert community.problem(encoded, CLUSTER) is None


def test_identity_of_another_cluster_is_found_beside_ones_own():
    other, own = Identity(64999, A, start=5, announces=9), community.encode(Identity(CLUSTER, A))
    assert community.decode_other([*own, *community.encode(other), (1, 2, 3)], CLUSTER) == other
    assert community.decode_other([*own, (1, 2, 3)], CLUSTER) is None
    malformed = [(64999, 1 << 28, 7), (64999, 1 << 28, 8)]
    assert community.decode_other([*malformed, (1, 2, 3)], CLUSTER) is None


@pytest.mark.parametrize(
    ("communities", "reason"),
    [
        ([(CLUSTER, 8 << 28, 7)], "identity: cluster 65001 without an address"),
        ([(CLUSTER, 1 << 28, 7), (CLUSTER, 1 << 28, 8)], "65001:268435456 appears twice, as 7 and as 8"),
        ([(CLUSTER, 1 << 28, 7), (CLUSTER, 8 << 28, 1), (CLUSTER, 8 << 28, 2)], "appears twice, as 1 and as 2"),
        ([(CLUSTER, 1 << 28, 7), (CLUSTER, 4 << 28, 1)], "with 1 of the 4 parts of an IPv6 address"),
    ],
)
def test_malformed_identity_is_refused_with_a_reason(communities, reason):
    assert community.decode(communities, CLUSTER) is None
    assert reason in (community.problem(communities, CLUSTER) or "")


KEYS = st.integers(0, 15).map(lambda kind: kind << 28) | U32


@given(st.lists(st.tuples(st.just(CLUSTER), KEYS, U32), max_size=12))
def test_no_input_raises(communities):
    identity, reason = community.decode(communities, CLUSTER), community.problem(communities, CLUSTER)
    readable = [key for _, key, _ in communities if not key % (1 << 28)]
    assert (identity is None) == (reason is not None or not readable)


@pytest.mark.parametrize(
    "identity",
    [
        Identity(0, A),
        Identity(65535, A),
        Identity((1 << 32) - 1, A),
        Identity(CLUSTER, A, start=1 << 32),
        Identity(CLUSTER, A, start=-1),
        Identity(CLUSTER, A, announces=1 << 32),
    ],
)
def test_field_out_of_range_is_not_encoded(identity):
    with pytest.raises(BgpError):
        community.encode(identity)
