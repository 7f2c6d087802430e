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
    """The cluster's previous table; what is absent did not change. `key_file: null`: there was no file. `nat`: what the
    pool and the sessions of `nat:` were; `nat: null`: there was no NAT."""

    rows: Rows | None = None
    chain: Chain | None = None
    version: TableVersion | None = None
    key_file: Path | None = None
    nat: PoolConfig | None = None


class TableConfig(Section):
    """What decides a row. It must be the same on every node; the epochs that each node tells show when it is not.

    `key_file` holds the cluster's secret as 32 hex digits, so that outsiders cannot compute which flows share a server.
    A relative path starts at lb.yml's folder. Without it the key derives from the cluster's number, which others may
    guess. `version` is that of the algorithm from members to rows, by default the newest that this release supports.

    While `previous` is set, nodes look flows up in both tables, and new flows use the previous one until every live
    member has the new one.

    With `claims` nodes that hold connections which a row's chain does not name have a place after it; without, growth
    of a cluster to twice its size breaks 4 to 6 % of its connections. All nodes must have the same.
    """

    rows: Rows = 65_536
    chain: Chain = 4
    version: TableVersion = TABLE_VERSIONS[-1]
    key_file: Path | None = None
    previous: PreviousConfig | None = None
    claims: Annotated[bool, Field(strict=True)] = True
