# SPDX-License-Identifier: Apache-2.0
"""Identities as large communities: they decode as encoded, and malformed ones are refused with a reason."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import community
from bgp.community import Identity, ServiceState
from bgp.errors import BgpError

CLUSTER = 65001
U32 = st.integers(0, (1 << 32) - 1)
STATES = st.builds(
    ServiceState,
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.sampled_from(["up", "draining", "left"]),
    st.booleans(),
)
IDENTITIES = st.builds(
    Identity,
    st.integers(1, (1 << 32) - 2).filter(lambda c: c != 65535),
    U32.map(IPv4Address),
    U32,
    st.dictionaries(st.integers(0, (1 << 28) - 1), STATES, max_size=20),
    st.none() | st.integers(0, (1 << 128) - 1).map(IPv6Address),
    U32,
    st.lists(U32, max_size=3).map(tuple),
)


def test_the_wire_format_is_frozen():
    identity = Identity(CLUSTER, IPv4Address("10.0.0.11"), 7, {0x1234567: ServiceState(100, 50, "draining")})
    assert community.encode(identity) == (
        (65001, 0x10000000, 0x0A00000B),
        (65001, 0x20000000, 7),
        (65001, 0x31234567, 2 << 28 | 100 << 14 | 50),
    )


def test_the_wire_format_of_a_vip_that_is_not_announced_is_frozen():
    identity = Identity(CLUSTER, IPv4Address("10.0.0.11"), 7, {0x1234567: ServiceState(100, 50, "up", announced=False)})
    encoded = community.encode(identity)
    assert encoded[2:] == ((65001, 0x31234567, 1 << 28 | 100 << 14 | 50), (65001, 0xA1234567, 1))
    # A reader that does not know the type decodes the rest.
    older = community.decode(encoded[:3], CLUSTER)
    assert older is not None
    assert older.services == {0x1234567: ServiceState(100, 50, "up")}


def test_the_wire_format_of_an_ipv6_address_is_frozen():
    identity = Identity(CLUSTER, IPv4Address("10.0.0.11"), 7, {}, IPv6Address("2001:db8:0:a::b"))
    encoded = community.encode(identity)
    assert encoded[2:] == (
        (65001, 0x40000000, 0x20010DB8),
        (65001, 0x50000000, 0x0000000A),
        (65001, 0x60000000, 0),
        (65001, 0x70000000, 0x0000000B),
    )
    for part in encoded[2:]:
        left = [other for other in encoded if other != part]
        assert community.decode(left, CLUSTER) is None
        assert community.problem(left, CLUSTER) == "identity: cluster 65001 with 3 of the 4 parts of an IPv6 address"


def test_the_version_is_a_community_of_its_own_and_absent_when_0():
    identity = Identity(CLUSTER, IPv4Address("10.0.0.11"), 7, version=1_800_000_000)
    assert community.encode(identity)[2:] == ((65001, 0x80000000, 1_800_000_000),)
    assert len(community.encode(Identity(CLUSTER, IPv4Address("10.0.0.11"), 7))) == 2


def test_further_epochs_are_numbered():
    identity = Identity(CLUSTER, IPv4Address("10.0.0.11"), 7, epochs=(9, 8))
    assert community.encode(identity)[2:] == ((65001, 0x90000000, 9), (65001, 0x90000001, 8))
    with pytest.raises(BgpError, match="epoch 4294967296 is not a number of 32 bits"):
        community.encode(Identity(CLUSTER, IPv4Address("10.0.0.11"), 7, epochs=(1 << 32,)))


def test_service_ids_are_frozen_and_28_bits():
    vip = IPv4Address("10.99.0.1")
    ids = {
        community.service_id(vip, "tcp", 7000),
        community.service_id(vip, "tcp", 0),
        community.service_id(vip, "udp", 7000),
        community.service_id(IPv6Address("2001:db8::1"), "tcp", 7000),
    }
    assert len(ids) == 4
    assert all(0 <= number < 1 << 28 for number in ids)
    assert community.service_id(vip, "tcp", 7000) == 24802356


@given(IDENTITIES, st.permutations(range(4)))
def test_round_trip_in_any_order_among_other_communities(identity, order):
    communities = [*community.encode(identity), (1, 2, 3), (identity.cluster, 15 << 28, 5)]
    communities.sort(key=lambda c: order[hash(c) % 4])
    assert community.decode(communities, identity.cluster) == identity
    assert community.problem(communities, identity.cluster) is None


def test_identity_of_another_cluster_is_ignored():
    encoded = community.encode(Identity(64999, IPv4Address("10.0.0.1"), 1))
    assert community.decode(encoded, CLUSTER) is None
    assert community.problem(encoded, CLUSTER) is None


@pytest.mark.parametrize(
    ("communities", "reason"),
    [
        ([(CLUSTER, 2 << 28, 7)], "without an address"),
        ([(CLUSTER, 1 << 28, 7)], "without an epoch"),
        ([(CLUSTER, 1 << 28, 7), (CLUSTER, 1 << 28, 8), (CLUSTER, 2 << 28, 1)], "appears twice"),
        (
            [(CLUSTER, 1 << 28, 7), (CLUSTER, 2 << 28, 1), (CLUSTER, 3 << 28 | 5, 1 << 28 | 10_001)],
            "service 5: weight 10001",
        ),
    ],
)
def test_malformed_identity_is_refused_with_a_reason(communities, reason):
    assert community.decode(communities, CLUSTER) is None
    assert reason in (community.problem(communities, CLUSTER) or "")


@given(st.lists(st.tuples(st.just(CLUSTER), U32, U32), max_size=12))
def test_no_input_raises(communities):
    identity, reason = community.decode(communities, CLUSTER), community.problem(communities, CLUSTER)
    assert (identity is None) == (reason is not None or not communities)


@pytest.mark.parametrize(
    "identity",
    [
        Identity(0, IPv4Address("10.0.0.1"), 1),
        Identity(65535, IPv4Address("10.0.0.1"), 1),
        Identity(CLUSTER, IPv4Address("10.0.0.1"), 1 << 32),
        Identity(CLUSTER, IPv4Address("10.0.0.1"), 1, version=1 << 32),
        Identity(CLUSTER, IPv4Address("10.0.0.1"), 1, {1 << 28: ServiceState(1, 1, "up")}),
        Identity(CLUSTER, IPv4Address("10.0.0.1"), 1, {1: ServiceState(10_001, 1, "up")}),
        Identity(CLUSTER, IPv4Address("10.0.0.1"), 1, {1: ServiceState(1, -1, "up")}),
        Identity(CLUSTER, IPv4Address("10.0.0.1"), 1, {1: ServiceState(1, 1, "lost")}),
    ],
)
def test_field_out_of_range_is_not_encoded(identity):
    with pytest.raises(BgpError):
        community.encode(identity)


def test_service_in_an_unknown_state_is_skipped():
    communities = [
        (CLUSTER, 1 << 28, 7),
        (CLUSTER, 2 << 28, 1),
        (CLUSTER, 3 << 28 | 5, 9 << 28),
        (CLUSTER, 3 << 28 | 6, 1 << 28),
    ]
    identity = community.decode(communities, CLUSTER)
    assert identity is not None
    assert list(identity.services) == [6]
    assert community.problem(communities, CLUSTER) is None
