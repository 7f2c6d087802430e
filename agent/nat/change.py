# SPDX-License-Identifier: Apache-2.0
"""What a change of the configuration does to the sessions of this node, and which pools new sessions get. Pure.

A session's backend knows it by an address of a pool, and its client's packets find it by the number of sessions: the
present pool and number, or the former ones, which `table.previous.nat` names. While nodes differ, new sessions get the
former ones; those that have these go on until they end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TypedDict

from agent.address import Network
from agent.config.epoch import supported_epochs
from agent.config.nat import used_part
from agent.config.schema import Config
from bpf.layout.nat import NatConf


@dataclass(frozen=True, slots=True)
class Ending:
    """That a change ends sessions: the key, which ones (by their NAT addresses, or by the `sessions` with which they
    began; neither: all), and how they would not end."""

    key: str
    pools: tuple[Network, ...]
    instead: str
    sessions: frozenset[int] = frozenset()


_DRAIN = "`lbctl drain` hands them to other nodes first"
_ONE_BY_ONE = "they go on if it is changed without the pools' first addresses and the key"


def ending_change(old: Config, new: Config) -> Ending | None:
    """Return that a change ends sessions; None if they all go on."""
    if old.nat is None:
        return None
    rows = [max(epoch.rows for epoch in supported_epochs(one)) for one in (old, new)]
    for key, differs in {
        "nat": new.nat is None,
        "xdp.mode": new.xdp.mode == "off",
        "nat.pool6": new.nat is not None and (new.nat.pool6 is None) != (old.nat.pool6 is None),
        "table.rows": rows[0] != rows[1],
    }.items():
        if differs:
            return Ending(key, (), _DRAIN)
    lost = tuple(used_part(pool, old.nat.sessions) for pool in _not_in(old.pools, new.pools))
    numbers = served_sessions(old) - served_sessions(new)
    if not lost and not numbers:
        return None
    before = ", ".join(f"{name}: {pool}" for name, pool in old.nat.named_pools)
    before = f"with `table: {{previous: {{nat: {{{before}, sessions: {old.nat.sessions}}}}}}}` they go on"
    if old.nat.sessions in numbers:
        together = lost or new.hash_key != old.hash_key
        return Ending("nat.sessions", lost, _ONE_BY_ONE if together else before, numbers)
    for name, pool in old.nat.named_pools:
        if used_part(pool, old.nat.sessions) in lost:
            return Ending(f"nat.{name}", lost, before, numbers)
    return Ending("table.previous.nat", lost, "`lbctl status` shows when none is left of the former ones", numbers)


def served_sessions(config: Config) -> frozenset[int]:
    """Return the numbers of sessions with which sessions began that go on."""
    numbers = (config.nat.sessions if config.nat else None, config.former_sessions)
    return frozenset(number for number in numbers if number is not None)


def closed_at_start(written: NatConf | None, config: Config) -> tuple[tuple[Network, ...], frozenset[int]]:
    """Return the pools that the agent before served, by what it wrote, and this one does not, and likewise the numbers
    of sessions: sessions of these end."""
    if written is None or config.nat is None:
        return (), frozenset()
    served = (written.pool, written.pool6, written.former, written.former6)
    numbers = frozenset({written.sessions, written.former_sessions or written.sessions})
    pools = _not_in((pool for pool in served if pool is not None), config.pools)
    return pools, numbers - served_sessions(config)


def _not_in(some: Iterable[Network], others: Iterable[Network]) -> tuple[Network, ...]:
    """Return the pools that have other first addresses. Their size may change: sessions use the first ones."""
    firsts = {pool[0] for pool in others}
    return tuple(pool for pool in some if pool[0] not in firsts)


class Given(TypedDict):
    """What new sessions get, and what former ones have, as `NatConf` has it."""

    sessions: int
    former_sessions: int | None
    pool: IPv4Network | None
    pool6: IPv6Network | None
    former: IPv4Network | None
    former6: IPv6Network | None


def given(config: Config, from_former: bool) -> Given:
    """Return what new sessions get, and what is served too. `from_former`: new ones get what was given before."""
    nat = config.nat
    assert nat is not None
    former4 = next((pool for pool in config.former_pools if isinstance(pool, IPv4Network)), None)
    former6 = next((pool for pool in config.former_pools if isinstance(pool, IPv6Network)), None)
    number = config.former_sessions
    found = Given(
        sessions=nat.sessions, former_sessions=number, pool=nat.pool, pool6=nat.pool6, former=former4, former6=former6
    )
    if from_former and number:
        found["sessions"], found["former_sessions"] = number, nat.sessions
    if from_former and former4:
        found["pool"], found["former"] = former4, nat.pool
    if from_former and former6:
        found["pool6"], found["former6"] = former6, nat.pool6
    return found


def gives_former(written: NatConf | None, config: Config) -> bool:
    """Return whether new sessions get what was given before, by what is in the maps."""
    if written is not None and written.sessions == config.former_sessions:
        return True
    firsts = {pool[0] for pool in config.former_pools}
    pools = (written.pool, written.pool6) if written else ()
    return any(pool is not None and pool[0] in firsts for pool in pools)
