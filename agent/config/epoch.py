# SPDX-License-Identifier: Apache-2.0
"""From the configuration's `table:` and `nat:` to the epochs that a node supports. Pure."""

from __future__ import annotations

from agent.config.nat import PoolConfig
from agent.config.schema import Config
from agent.table.epoch import Epoch, epoch_number


def supported_epochs(config: Config) -> tuple[Epoch, ...]:
    """Return the epochs that a node with this configuration supports: the preferred one, then the previous one."""
    table, previous = config.table, config.table.previous
    # The affinity of a NAT service decides the backend, not the row.
    services = [(s.key, s.affinity, s.hash) for s in config.services if s.mode == "dsr"]

    def epoch(version: int, rows: int, chain: int, key: bytes, nat: PoolConfig | None) -> Epoch:
        sessions = _sessions(nat) if nat else ""
        return Epoch(epoch_number(version, rows, chain, key, services, sessions), version, rows, chain, key)

    preferred = epoch(table.version, table.rows, table.chain, config.hash_key, config.nat)
    if previous is None or config.previous_key is None:
        return (preferred,)
    rows, chain = previous.rows or table.rows, previous.chain or table.chain
    nat = previous.nat if "nat" in previous.model_fields_set else config.nat
    return preferred, epoch(previous.version or table.version, rows, chain, config.previous_key, nat)


def _sessions(nat: PoolConfig) -> str:
    """Return all that decides a session's row and its address and port of the pool, as text."""
    return f"pool {nat.pool} pool6 {nat.pool6} sessions {nat.sessions}"
