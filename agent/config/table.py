# SPDX-License-Identifier: Apache-2.0
"""lb.yml's `table:`: what decides a row, and what did before. Owns the schema; epoch.py makes epochs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.config.fields import Section, fault, within
from agent.config.nat import PoolConfig
from agent.table.epoch import TABLE_VERSIONS


def _known(version: int) -> int:
    if version not in TABLE_VERSIONS:
        raise fault("", f"{version} is unknown to this release, which supports {', '.join(map(str, TABLE_VERSIONS))}")
    return version


def _power_of_two(rows: int) -> int:
    if rows & (rows - 1):
        raise fault("", f"{rows} is not a power of two")
    return rows


Rows = Annotated[int, Field(strict=True), within(4096, 262_144), AfterValidator(_power_of_two)]
# A row has room for 8, but the walk through a chain of 8 may run out of hops (tests/proof/test_next_hop_walk.py).
Chain = Annotated[int, Field(strict=True), within(1, 7)]
TableVersion = Annotated[int, Field(strict=True), AfterValidator(_known)]


class PreviousConfig(Section):
    """The cluster's previous table; what is absent did not change."""

    rows: Rows | None = None
    """What `table.rows` was. Example: `65536`."""
    chain: Chain | None = None
    """What `table.chain` was. Example: `4`."""
    version: TableVersion | None = None
    """What the algorithm's version was."""
    key_file: Path | None = None
    """What `table.key_file` was; `null`: there was none. Example: `old.key`."""
    nat: PoolConfig | None = None
    """What the pool and the sessions of `nat:` were; `null`: there was no NAT. Sessions go on if only the pool is
    another one, or only `sessions` is. Example: `{pool: 10.255.0.0/27}`."""


class TableConfig(Section):
    """What decides a row. It must be the same on every node; the epochs that nodes publish show when it is not."""

    rows: Rows = 65_536
    """The rows of a table, a power of two: the more, the finer the shares. Example: `262144`."""
    chain: Chain = 4
    """The nodes in a row's chain: how many changes of members in a row an old connection survives without claims.
    Example: `5`."""
    version: TableVersion | None = None
    """The version of the algorithm from members to rows. By default the newest that all members know: this release's,
    or the one before, whose table nodes keep beside it. Only `hash: maglev` has two (1 is that of release 0.2.0). Once
    all nodes use the newest, [name it](releases.md#the-version-of-the-table): packets are then looked up in one table.
    Example: `2`."""
    key_file: Path | None = None
    """A file with the flow hash's secret, 32 hex digits, so that outsiders cannot compute which flows share a server. A
    relative path starts at lb.yml's folder. Without it the key derives from the cluster's number, which others may
    guess. Example: `table.key`."""
    previous: PreviousConfig | None = None
    """What the table was before a change. While it is set, nodes look flows up in both tables, and new flows use the
    previous one until every live member has the new one. Example: `{key_file: old.key}`."""
    claims: Annotated[bool, Field(strict=True)] = True
    """Whether nodes that hold connections in a row whose chain does not name them keep a place there. Without, the
    growth of a cluster to twice its size breaks 4 to 6 % of its connections. The same on all nodes. Example:
    `false`."""
