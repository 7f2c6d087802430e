# SPDX-License-Identifier: Apache-2.0
"""The table algorithms that this release knows, by version: a table of another version belongs to another epoch.

A release that changes the rows that rendezvous.py or maglev.py make from the same members keeps the old algorithm too,
here and in `epoch.TABLE_VERSIONS`, as long as a cluster may contain a release that knows only the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agent.model import Candidate
from agent.table import maglev, rendezvous
from agent.table.table import Table

Build = Callable[[Sequence[Candidate], int, int, Table | None], Table]
"""From candidates, rows, places in a chain, and any earlier table that saves work, to a table."""


def _maglev_1(candidates: Sequence[Candidate], rows: int, chain: int, _: Table | None) -> Table:
    return maglev.build(candidates, rows, chain)


ALGORITHMS: Final[dict[int, dict[str, Build]]] = {1: {"rendezvous": rendezvous.build, "maglev": _maglev_1}}
"""By version, then by a service's `hash`."""


def build(
    version: int, hash_name: str, candidates: Sequence[Candidate], rows: int, chain: int, before: Table | None = None
) -> Table:
    """Return the table of these candidates, by a version's algorithm for a service's `hash`."""
    return ALGORITHMS[version][hash_name](candidates, rows, chain, before)
