# SPDX-License-Identifier: Apache-2.0
"""What the NAT program is given: indexes that keep their meaning, and choices by each balance."""

from collections import Counter
from ipaddress import IPv4Address

import pytest
from support.nat_config import TEXT, nat_config

from agent.errors import AgentError
from agent.nat.backend import BackendKey, backends_of
from agent.nat.entries import ServiceChoice, backend_indexes
from bpf.layout.nat_backend import BACKENDS, Balance, Choice
from bpf.layout.service import Affinity

A, B, C = ((IPv4Address(f"10.9.0.{n}"), 80) for n in (11, 12, 13))
CONFIG = nat_config()
WEB = [key for key in backends_of(CONFIG) if key.service == "192.0.2.10:443/tcp"]
INDEXES = {(key.address, key.port): index for index, key in enumerate(backends_of(CONFIG), 1)}


def choice(balance: str) -> ServiceChoice:
    config = nat_config(TEXT.replace("mode: nat\n", f"mode: nat\n    affinity: 3-tuple\n    balance: {balance}\n", 1))
    return ServiceChoice(config.services[0])


def test_backends_keep_their_indexes_and_new_ones_get_free_ones() -> None:
    before = backend_indexes({}, [A, B])
    assert before == {A: 1, B: 2}
    assert backend_indexes({B: 2}, [C, B]) == {B: 2, C: 1}
    assert backend_indexes(before, [C]) == {A: 1, B: 2, C: 3}, "sessions of backends that left go on"


def test_backends_that_are_too_many_are_an_error_that_names_the_next_step() -> None:
    many = [(IPv4Address(i), 80) for i in range(1, BACKENDS)]
    full = backend_indexes({}, many)
    assert set(full.values()) == set(range(1, BACKENDS))
    with pytest.raises(AgentError, match="no room for more than 4095 backends: sessions with backends that left"):
        backend_indexes(full, [A])


@pytest.mark.parametrize("balance", ["hash", "weighted"])
def test_hash_and_weighted_have_a_table_by_weight(balance: str) -> None:
    entry = choice(balance).entry(WEB, INDEXES)
    assert (entry.balance, entry.affinity) == (Balance[balance.upper()], Affinity.THREE_TUPLE)
    assert Counter(entry.choices) == {Choice(1, 100): 171, Choice(2, 50): 85}
    one = choice(balance).entry(WEB[:1], INDEXES)
    assert set(one.choices) == {Choice(1, 100)}
    assert len(one.choices) == 256
    assert choice(balance).entry([], INDEXES).choices == ()


@pytest.mark.parametrize("balance", ["round_robin", "least_connections"])
def test_the_others_have_each_backend_once(balance: str) -> None:
    assert choice(balance).entry(WEB[::-1], INDEXES).choices == (Choice(1, 100), Choice(2, 50))
    assert choice(balance).entry(WEB[1:], INDEXES).choices == (Choice(2, 50),)


def test_backend_without_a_weight_is_never_chosen() -> None:
    dns = ServiceChoice(CONFIG.services[1])
    chosen = BackendKey("192.0.2.11:53/udp", IPv4Address("10.9.0.11"), 53)
    assert set(dns.keys) == {chosen}
    assert dns.entry(backends_of(CONFIG), INDEXES).choices == (Choice(3, 100),)
