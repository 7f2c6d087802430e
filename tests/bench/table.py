# SPDX-License-Identifier: Apache-2.0
"""Part 4, tables: the time to build, change and swap one, by the number of members. Prints JSON.

65,536 rows, chains of 4, one CPU. A change starts from the agent's current table. The agent's whole work is the table,
its digest, the kernel's rows, the changed rows, and the swap, which waits until no CPU reads the old map.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench import figures, testrun

from agent.forwarding import row_array
from agent.model import Candidate, State
from agent.table import maglev, rendezvous
from agent.table.table import Table
from bpf.layout.limits import CHAIN
from bpf.maps.maps import Maps

ROWS: Final = 65_536
FILLED: Final = 4
MEMBERS: Final = (16, 64, 256, 1024)
FIRST: Final = int(IPv4Address("10.0.0.1"))

Subjects = dict[str, Callable[[], Any]]


def candidates(count: int) -> tuple[Candidate, ...]:
    """Return members of equal weight."""
    return tuple(Candidate(IPv4Address(FIRST + number), 100, 100, State.UP) for number in range(count))


def changes(members: Sequence[Candidate]) -> dict[str, tuple[Candidate, ...]]:
    """Return the members after each kind of event."""
    some = len(members) // 2
    newcomer = Candidate(IPv4Address(FIRST + len(members)), 100, 100, State.UP)

    def with_one(one: Candidate) -> tuple[Candidate, ...]:
        return (*members[:some], one, *members[some + 1 :])

    return {
        "one added": (*members, newcomer),
        "one removed": (*members[:some], *members[some + 1 :]),
        "one drained": with_one(replace(members[some], effective=0, state=State.DRAINING)),
        "one lost": with_one(replace(members[some], effective=0, state=State.LOST)),
        "one weight halved": with_one(replace(members[some], effective=50)),
        "one nominal weight raised": with_one(replace(members[some], weight=150, effective=150)),
    }


def subjects(count: int, maps: Maps) -> Subjects:
    """Return the functions to time for so many members."""
    members = candidates(count)
    before = rendezvous.build(members, ROWS, FILLED)
    old_rows = row_array.rows_of(before, None, range(1, count + 1), ROWS).array()
    grace = np.zeros(ROWS, np.uint64)
    made: Subjects = {"rendezvous, from nothing": lambda: rendezvous.build(members, ROWS, FILLED)}
    for what, changed in changes(members).items():
        made[f"rendezvous, {what}"] = partial(rendezvous.build, changed, ROWS, FILLED, before)

    def agent_work() -> None:
        table = rendezvous.build(changes(members)["one drained"], ROWS, FILLED, before)
        write(table, count, old_rows, maps, grace)

    lowered = changes(members)["one weight halved"]
    once = rendezvous.build(lowered, ROWS, FILLED, before)
    twice = (replace(lowered[0], effective=30), *lowered[1:])
    made["rendezvous, a second weight lowered"] = partial(rendezvous.build, twice, ROWS, FILLED, once)
    made["one drained, all that the agent does"] = agent_work
    made["digest"] = lambda: before.digest
    made["swap"] = lambda: maps.tables.swap(1, old_rows, grace)
    made["maglev, from nothing"] = lambda: maglev.build(members, ROWS, FILLED, ROWS // maglev.UNFILLED)
    return made


def write(table: Table, count: int, old_rows: Any, maps: Maps, grace: Any) -> str:
    """Do with a new table what epoch_bank.py does."""
    rows = row_array.rows_of(table, None, range(1, count + 1), ROWS).array()
    assert row_array.differing(rows, old_rows).any()
    maps.tables.swap(1, rows, grace)
    return table.digest


def measure(rounds: int) -> list[dict[str, Any]]:
    """Time all subjects in turn and return bench.json's `table`."""
    testrun.isolate()
    folder = Path("/sys/fs/bpf/table")
    folder.mkdir()
    maps = Maps.open(folder, ROWS)
    maps.tables.swap(1, np.zeros((ROWS, CHAIN), np.uint16), np.zeros(ROWS, np.uint64))  # the first is not measured
    everything = {count: subjects(count, maps) for count in MEMBERS}
    ms: dict[tuple[str, int], list[float]] = defaultdict(list)
    cpu_ms: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for count, made in everything.items():
            for name, run in made.items():
                began, worked = time.perf_counter(), time.process_time()
                run()
                ms[name, count].append(1000 * (time.perf_counter() - began))
                cpu_ms[name, count].append(1000 * (time.process_time() - worked))
    rows = []
    for (name, count), times in ms.items():
        wall, cpu = figures.min_median(times), figures.min_median(cpu_ms[name, count])
        row = {"case": name, "members": count, "ms_min": wall["min"], "ms_median": wall["median"]}
        rows.append({**row, "cpu_ms_min": cpu["min"], "cpu_ms_median": cpu["median"]})
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
