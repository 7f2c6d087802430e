# SPDX-License-Identifier: Apache-2.0
"""Which changes of the configuration end sessions, and which do not."""

from ipaddress import IPv4Network, IPv6Network

import pytest
from support.nat_config import TEXT, nat_config

from agent.nat.change import closed_at_start, ending_change, given, gives_former
from bpf.layout.nat import NatConf

OLD = "nat: {pool: 10.255.0.0/27, sessions: 65536}"
BOTH = "nat: {pool: 10.255.0.0/27, pool6: 'fd00:ff::/123', sessions: 65536}"
MOVED = TEXT.replace("10.255.0.0/27", "10.255.1.0/27")
PREVIOUS = "rows: 4096, previous: {nat: {pool: 10.255.0.0/31, sessions: 65536}}"
AFTER = MOVED.replace("rows: 4096", PREVIOUS)
NOW, BEFORE = IPv4Network("10.255.1.0/27"), IPv4Network("10.255.0.0/31")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (OLD, OLD, ""),
        (OLD, "nat: {pool: 10.255.0.0/24, sessions: 65536, weight: 0, forward: ipip}", ""),
        (OLD, "nat: {pool: 10.255.1.0/27, sessions: 65536}", "nat.pool"),
        (OLD, "nat: {pool: 10.255.0.0/27, sessions: 131072}", "nat.sessions"),
        (OLD, "nat: {pool: 10.255.1.0/27, sessions: 131072}", "nat.sessions"),
        (OLD, "nat: {pool: 10.255.0.0/27, sessions: 65536, pool6: 'fd00:ff::/123'}", "nat.pool6"),
        ("rows: 4096", "rows: 8192", "table.rows"),
        ("rows: 4096", "rows: 4096, previous: {key_file: null}", ""),
        ("balance: least_connections", "balance: hash", ""),
    ],
)
def test_changes(old: str, new: str, key: str) -> None:
    ending = ending_change(nat_config(), nat_config(TEXT.replace(old, new)))
    assert (ending.key if ending else "") == key


def test_the_end_of_nat() -> None:
    with_nat = nat_config()
    without = with_nat.model_copy(update={"nat": None})
    ending = ending_change(with_nat, without)
    assert ending is not None
    assert (ending.key, ending.pools) == ("nat", ())
    assert ending_change(without, with_nat) is None


def test_sessions_go_on_in_the_pool_that_previous_names() -> None:
    assert ending_change(nat_config(), nat_config(AFTER)) is None
    without = ending_change(nat_config(), nat_config(MOVED))
    assert without is not None
    assert (without.key, without.pools) == ("nat.pool", (BEFORE,))
    how = "with `table: {previous: {nat: {pool: 10.255.0.0/27, sessions: 65536}}}` they go on"
    assert without.instead == how, "it may be copied"
    fewer = nat_config(AFTER.replace("/31, sessions: 65536", "/29, sessions: 131072"))
    assert ending_change(nat_config(), fewer) == without, "that was another number too"


MORE = TEXT.replace("sessions: 65536", "sessions: 131072")
WAS_FEWER = MORE.replace("rows: 4096", PREVIOUS.replace("10.255.0.0/31", "10.255.0.0/27"))


def test_sessions_go_on_with_another_number_if_previous_has_theirs() -> None:
    """More and fewer."""
    fewer = TEXT.replace("rows: 4096", PREVIOUS.replace("/31, sessions: 65536", "/27, sessions: 131072"))
    for before, after in ((TEXT, WAS_FEWER), (MORE, fewer)):
        old, new = nat_config(before), nat_config(after)
        assert ending_change(old, new) is None
        assert new.session_slots == 131_072
        assert given(new, False)["sessions"] == new.nat.sessions if new.nat else 0
        without = ending_change(old, nat_config(MORE if before == TEXT else TEXT))
        assert without is not None
        assert (without.key, without.sessions) == ("nat.sessions", {old.session_slots})
        assert f"sessions: {old.session_slots}}}}}}}` they go on" in without.instead
        removed = ending_change(new, nat_config(MORE if before == TEXT else TEXT))
        assert removed is not None
        assert (removed.key, removed.sessions) == ("table.previous.nat", {old.session_slots})


def test_another_number_with_another_key_or_another_pool_ends_sessions() -> None:
    key = WAS_FEWER.replace("previous: {", "key_file: new, previous: {key_file: null, ")
    pool = WAS_FEWER.replace("previous: {nat: {pool: 10.255.0.0/27", "previous: {nat: {pool: 10.255.1.0/27")
    for text in (pool, key):
        config = nat_config(text).with_secrets(bytes(range(16)) if text == key else None, None, ())
        assert config.former_sessions is None
        assert config.session_slots == 131_072
        ending = ending_change(nat_config(), config)
        assert ending is not None
        assert (ending.key, ending.sessions) == ("nat.sessions", {65_536})
        how = "they go on if it is changed without the pools' first addresses and the key"
        assert (ending.instead == how) == (text == key), "the former pool was another one: previous is wrong"


def test_new_sessions_have_the_former_number_as_long_as_nodes_differ() -> None:
    config = nat_config(WAS_FEWER)
    numbers = [(one["sessions"], one["former_sessions"]) for one in (given(config, True), given(config, False))]
    assert numbers == [(65_536, 131_072), (131_072, 65_536)]
    pool = IPv4Network("10.255.0.0/30")
    assert gives_former(NatConf(65_536, 1, pool), config)
    assert not gives_former(NatConf(131_072, 1, pool, former_sessions=65_536), config)
    assert closed_at_start(NatConf(131_072, 1, pool, former_sessions=65_536), nat_config(MORE)) == ((), {65_536})
    assert closed_at_start(NatConf(65_536, 1, pool, former_sessions=131_072), config) == ((), frozenset())


@pytest.mark.parametrize(
    "second", [MOVED, AFTER.replace("10.255.1.0/27", "10.255.2.0/27").replace("10.255.0.0/31", "10.255.1.0/31")]
)
def test_a_second_change_ends_what_is_left_of_the_first(second: str) -> None:
    """Also the removal of `previous`. The pool of the middle goes on if it is named."""
    ending = ending_change(nat_config(AFTER), nat_config(second))
    assert ending is not None
    assert (ending.key, ending.pools) == ("table.previous.nat", (BEFORE,))
    assert "`lbctl status` shows when none is left" in ending.instead


def test_pools_that_the_agent_before_served() -> None:
    config = nat_config()
    assert closed_at_start(None, config) == ((), frozenset())
    written = NatConf(65_536, 1, IPv4Network("10.255.0.0/31"))
    assert closed_at_start(written, config) == ((), frozenset())
    other, six = IPv4Network("10.255.0.2/31"), IPv6Network("fd00:ff::/127")
    assert closed_at_start(NatConf(65_536, 1, other), config)[0] == (other,)
    assert closed_at_start(NatConf(65_536, 1, written.pool, six), config)[0] == (six,)
    assert closed_at_start(NatConf(65_536, 1, written.pool, former=other), config)[0] == (other,)
    assert closed_at_start(written, nat_config(AFTER))[0] == ()
    assert closed_at_start(written, nat_config(MOVED))[0] == (written.pool,)


def test_new_sessions_get_the_former_pool_as_long_as_nodes_differ() -> None:
    config = nat_config(AFTER)
    none = {"pool6": None, "former6": None, "sessions": 65_536, "former_sessions": None}
    assert given(config, False) == {"pool": NOW, "former": BEFORE, **none}
    assert given(config, True) == {"pool": BEFORE, "former": NOW, **none}
    assert given(nat_config(), True)["former"] is None, "no other pool"
    used = IPv4Network("10.255.1.0/31")
    assert not gives_former(None, config)
    assert not gives_former(NatConf(65_536, 1, used, former=BEFORE), config)
    assert gives_former(NatConf(65_536, 1, BEFORE, former=used), config)


def test_each_family_has_a_former_pool_of_its_own() -> None:
    text = TEXT.replace(OLD, BOTH.replace("fd00:ff::", "fd00:fe::"))
    previous = PREVIOUS.replace("pool: 10.255.0.0/31", "pool: 10.255.0.0/31, pool6: 'fd00:ff::/127'")
    config = nat_config(text.replace("rows: 4096", previous))
    pools = given(config, True)
    assert (pools["pool"], pools["former"]) == (IPv4Network("10.255.0.0/27"), None), "the same"
    six = IPv6Network("fd00:ff::/127"), IPv6Network("fd00:fe::/123")
    assert (pools["pool6"], pools["former6"]) == six
    assert ending_change(nat_config(TEXT.replace(OLD, BOTH)), config) is None
