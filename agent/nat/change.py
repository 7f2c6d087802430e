# SPDX-License-Identifier: Apache-2.0
"""Which changes of the configuration end the sessions of this node. Pure.

A session is a slot of maps that have one size, and its backend knows it by an address of the pool.
"""

from __future__ import annotations

from agent.address import Network
from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from bpf.layout.nat import NatConf


def ending_change(old: Config, new: Config) -> str:
    """Return the key whose change ends all sessions, or those of a family; "" if they go on."""
    if old.nat is None:
        return ""
    if new.nat is None:
        return "nat"
    if new.xdp.mode == "off":
        return "xdp.mode"
    for key in ("sessions", "pool", "pool6"):
        before, after = getattr(old.nat, key), getattr(new.nat, key)
        if key != "sessions":
            before, after = _first(before), _first(after)
        if before != after:
            return f"nat.{key}"
    rows = [max(epoch.rows for epoch in supported_epochs(one)) for one in (old, new)]
    return "table.rows" if rows[0] != rows[1] else ""


def moved_families(written: NatConf | None, config: Config) -> tuple[int, ...]:
    """Return the IP versions whose pool is another than the one in the maps, which the agent before wrote."""
    if written is None or config.nat is None:
        return ()
    pools: dict[int, Network | None] = {4: written.pool, 6: written.pool6}
    return tuple(version for version, pool in pools.items() if _first(pool) != _first(config.nat.pool_of(version)))


def _first(pool: Network | None) -> object:
    """Return the first address of a pool. Its size may change: sessions use the first addresses."""
    return None if pool is None else pool.network_address
