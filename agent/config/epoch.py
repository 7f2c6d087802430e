# SPDX-License-Identifier: Apache-2.0
"""From the configuration's `table:` to the epochs that a node supports. Pure."""

from __future__ import annotations

from agent.config.schema import Config
from agent.table.epoch import Epoch, epoch_number


def supported_epochs(config: Config) -> tuple[Epoch, ...]:
    """Return the epochs that a node with this configuration supports: the preferred one, then the previous one."""
    table, previous = config.table, config.table.previous
    services = [(s.key, s.affinity, s.hash) for s in config.services]

    def epoch(version: int, rows: int, chain: int, key: bytes) -> Epoch:
        return Epoch(epoch_number(version, rows, chain, key, services), version, rows, chain, key)

    preferred = epoch(table.version, table.rows, table.chain, config.hash_key)
    if previous is None or config.previous_key is None:
        return (preferred,)
    rows, chain = previous.rows or table.rows, previous.chain or table.chain
    return preferred, epoch(previous.version or table.version, rows, chain, config.previous_key)
