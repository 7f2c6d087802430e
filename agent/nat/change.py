# SPDX-License-Identifier: Apache-2.0
"""What a change of the configuration does to the sessions of this node, and which pools new sessions get. Pure.

A session is a slot of maps that have one size, and its backend knows it by an address of a pool: of the present one, or
of the former one, which `table.previous.nat` names. While nodes differ, new sessions get the former pool; those that
have an address of it go on until they end.
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
    """That a change ends sessions: the key, whose sessions (by their NAT addresses; empty: all), and how they would
    not end."""

    key: str
    pools: tuple[Network, ...]
    instead: str


_DRAIN = "`lbctl drain` hands them to other nodes first"


def ending_change(old: Config, new: Config) -> Ending | None:
    """Return that a change ends sessions; None if they all go on."""
    if old.nat is None:
        return None
    rows = [max(epoch.rows for epoch in supported_epochs(one)) for one in (old, new)]
    for key, differs in {
        "nat": new.nat is None,
        "xdp.mode": new.xdp.mode == "off",
        "nat.sessions": new.nat is not None and new.nat.sessions != old.nat.sessions,
        "nat.pool6": new.nat is not None and (new.nat.pool6 is None) != (old.nat.pool6 is None),
        "table.rows": rows[0] != rows[1],
    }.items():
        if differs:
            return Ending(key, (), _DRAIN)
    lost = tuple(used_part(pool, old.nat.sessions) for pool in _not_in(old.pools, new.pools))
    if not lost:
        return None
    before = ", ".join(f"{name}: {pool}" for name, pool in old.nat.named_pools)
    before = f"with `table: {{previous: {{nat: {{{before}, sessions: {old.nat.sessions}}}}}}}` they go on"
    for name, pool in old.nat.named_pools:
        if used_part(pool, old.nat.sessions) in lost:
            return Ending(f"nat.{name}", lost, before)
    return Ending("table.previous.nat", lost, "`lbctl status` shows when none is left in the former pool")


def closed_at_start(written: NatConf | None, config: Config) -> tuple[Network, ...]:
    """Return the pools that the agent before served, by what it wrote, and this one does not: sessions end."""
    if written is None or config.nat is None:
        return ()
    served = (written.pool, written.pool6, written.former, written.former6)
    return _not_in((pool for pool in served if pool is not None), config.pools)


def _not_in(some: Iterable[Network], others: Iterable[Network]) -> tuple[Network, ...]:
    """Return the pools that have other first addresses. Their size may change: sessions use the first ones."""
    firsts = {pool[0] for pool in others}
    return tuple(pool for pool in some if pool[0] not in firsts)


class Pools(TypedDict):
    """The pools as `NatConf` has them."""

    pool: IPv4Network | None
    pool6: IPv6Network | None
    former: IPv4Network | None
    former6: IPv6Network | None


def pools_of(config: Config, from_former: bool) -> Pools:
    """Return which pools new sessions get, and which are served too. `from_former`: new ones get the former ones."""
    nat = config.nat
    assert nat is not None
    former4 = next((pool for pool in config.former_pools if isinstance(pool, IPv4Network)), None)
    former6 = next((pool for pool in config.former_pools if isinstance(pool, IPv6Network)), None)
    found = Pools(pool=nat.pool, pool6=nat.pool6, former=former4, former6=former6)
    if from_former and former4:
        found["pool"], found["former"] = former4, nat.pool
    if from_former and former6:
        found["pool6"], found["former6"] = former6, nat.pool6
    return found


def gives_former(written: NatConf | None, config: Config) -> bool:
    """Return whether new sessions get addresses of a former pool, by what is in the maps."""
    firsts = {pool[0] for pool in config.former_pools}
    pools = (written.pool, written.pool6) if written else ()
    return any(pool is not None and pool[0] in firsts for pool in pools)
