# SPDX-License-Identifier: Apache-2.0
"""Which changes of the configuration end sessions, and which do not."""

from ipaddress import IPv4Network, IPv6Network

import pytest
from support.nat_config import TEXT, nat_config

from agent.nat.change import ending_change, moved_families
from bpf.layout.nat import NatConf

OLD = "nat: {pool: 10.255.0.0/27, sessions: 65536}"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (OLD, OLD, ""),
        (OLD, "nat: {pool: 10.255.0.0/24, sessions: 65536, weight: 0, forward: ipip}", ""),
        (OLD, "nat: {pool: 10.255.1.0/27, sessions: 65536}", "nat.pool"),
        (OLD, "nat: {pool: 10.255.0.0/27, sessions: 131072}", "nat.sessions"),
        (OLD, "nat: {pool: 10.255.0.0/27, sessions: 65536, pool6: 'fd00:ff::/123'}", "nat.pool6"),
        ("rows: 4096", "rows: 8192", "table.rows"),
        ("rows: 4096", "rows: 4096, previous: {key_file: null}", ""),
        ("balance: least_connections", "balance: hash", ""),
    ],
)
def test_changes(old: str, new: str, key: str) -> None:
    assert ending_change(nat_config(), nat_config(TEXT.replace(old, new))) == key


def test_the_end_of_nat() -> None:
    with_nat = nat_config()
    without = with_nat.model_copy(update={"nat": None})
    assert ending_change(with_nat, without) == "nat"
    assert ending_change(without, with_nat) == ""


def test_families_whose_pool_has_moved() -> None:
    config = nat_config()
    assert moved_families(None, config) == ()
    written = NatConf(65_536, 1, IPv4Network("10.255.0.0/31"))
    assert moved_families(written, config) == ()
    assert moved_families(NatConf(65_536, 1, IPv4Network("10.255.0.2/31")), config) == (4,)
    assert moved_families(NatConf(65_536, 1, written.pool, IPv6Network("fd00:ff::/127")), config) == (6,)
