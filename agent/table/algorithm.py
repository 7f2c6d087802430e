# SPDX-License-Identifier: Apache-2.0
"""The ways from members to rows that this release knows, by version: a table built by another one is another epoch.

A release that changes what rendezvous.py or maglev.py make for the same members keeps the old way beside the new one,
here and in `epoch.TABLE_VERSIONS`, for as long as it can be installed next to a release that knows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agent.model import Candidate
from agent.table import maglev, rendezvous
from agent.table.table import Table

Build = Callable[[Sequence[Candidate], int, int, Table | None], Table]
"""From candidates, rows, places in a chain, and any earlier table that may save work."""


def _maglev_1(candidates: Sequence[Candidate], rows: int, chain: int, _: Table | None) -> Table:
    return maglev.build(candidates, rows, chain)


ALGORITHMS: Final[dict[int, dict[str, Build]]] = {1: {"rendezvous": rendezvous.build, "maglev": _maglev_1}}
"""By version, then by a service's `hash`."""


def build(
    version: int, kind: str, candidates: Sequence[Candidate], rows: int, chain: int, before: Table | None = None
) -> Table:
    """The table that a version makes of these candidates for a service's `hash`."""
    return ALGORITHMS[version][kind](candidates, rows, chain, before)
