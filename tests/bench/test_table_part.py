# SPDX-License-Identifier: Apache-2.0
"""The cases of `make bench` that use the agent's own functions for tables run, with few members."""

from bench import table
from support.bpffs import new_bpffs

from bpf.maps.maps import Maps


def test_each_case_runs() -> None:
    with new_bpffs("bench-table") as folder:
        maps = Maps.open(folder, table.ROWS)
        try:
            cases = table.subjects(16, maps)
            for run in cases.values():
                run()
        finally:
            maps.close()
    assert cases.keys() >= {"one drained, all that the agent does", "swap", "maglev, from nothing"}
