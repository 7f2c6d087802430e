# SPDX-License-Identifier: Apache-2.0
"""From the configuration's `table:` and `nat:` to the epochs that a node supports. Pure."""

from __future__ import annotations

from agent.config.nat import PoolConfig
from agent.config.schema import Config
from agent.table.epoch import TABLE_VERSIONS, Epoch, epoch_number, since


def supported_epochs(config: Config) -> tuple[Epoch, ...]:
    """Return the epochs that a node with this configuration supports: the preferred one, then the previous one.

    A configuration that names no version has the newest one, and the one before beside it if its rows differ: so a
    cluster changes the version by itself, when the last of its nodes has the new release.
    """
    table, previous = config.table, config.table.previous
    # The affinity of a NAT service decides the backend, not the row.
    services = [(s.key, s.affinity, s.hash) for s in config.services if s.mode == "dsr"]
    hashes = {"rendezvous", *(one for _, _, one in services)}  # the former is that of NAT services

    def epoch(version: int, rows: int, chain: int, key: bytes, nat: PoolConfig | None) -> Epoch:
        sessions = _sessions(nat) if nat else ""
        version = max(since(version, one) for one in hashes)
        return Epoch(epoch_number(version, rows, chain, key, services, sessions), version, rows, chain, key)

    version = table.version or TABLE_VERSIONS[-1]
    preferred = epoch(version, table.rows, table.chain, config.hash_key, config.nat)
    if previous is None or config.previous_key is None:
        former = preferred.version - 1
        if table.version or former not in TABLE_VERSIONS:
            return (preferred,)
        return preferred, epoch(former, table.rows, table.chain, config.hash_key, config.nat)
    rows, chain = previous.rows or table.rows, previous.chain or table.chain
    nat = previous.nat if "nat" in previous.model_fields_set else config.nat
    return preferred, epoch(previous.version or version, rows, chain, config.previous_key, nat)


def end_of_previous(config: Config) -> str:
    """Return the change of lb.yml that ends the lookup in a previous table, once all nodes use the new one."""
    if config.table.previous is not None:
        return "remove table.previous from lb.yml"
    return f"write table: {{version: {TABLE_VERSIONS[-1]}}} into lb.yml"


def _sessions(nat: PoolConfig) -> str:
    """Return all that decides a session's row and its address and port of the pool, as text."""
    return f"pool {nat.pool} pool6 {nat.pool6} sessions {nat.sessions}"
