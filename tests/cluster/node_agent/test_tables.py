# SPDX-License-Identifier: Apache-2.0
"""The rows: what they would be without a node, and where the kernel's differ."""

import json

import pytest
from support.cluster_lab import ClusterLab

pytestmark = pytest.mark.lab


def test_table_simulate_is_what_the_others_do_then(cluster: ClusterLab) -> None:
    removed = cluster.addresses["b3"]
    shown = cluster.lbctl("b1", "table", "simulate", "--remove", removed, "-o", "json")["services"][0]
    assert shown["digest"] == cluster.status("b1")["services"][0]["digest"], "the table that is in use"
    rows = {one["address"]: one["rows"] for one in shown["members"]}
    assert sum(rows.values()) == shown["rows"]
    assert shown["moved"] == rows[removed], "the rows of the others stay"
    assert "rows move; connections of this node at risk: " in cluster.lbctl(
        "b1", "table", "simulate", "--remove", removed
    )
    assert "is no member; members are" in cluster.lbctl("b1", "table", "simulate", "--remove", "10.0.0.99", code=1)
    assert removed in cluster.lbctl("b1", "table", "show", "--service", "echo")


SWAP_TWO_PLACES = """
from pathlib import Path
from agent.paths import Paths
from bpf.maps.maps import Maps
(pins,) = Paths().pins.glob('maps_*')
maps = Maps.open(pins, 65536)
(entry,), bank = maps.services.read().values(), maps.conf.read().bank
rows = maps.tables.rows(entry.slot, bank).copy()
rows[7, [0, 1]] = rows[7, [1, 0]]
maps.tables.swap(entry.slot, rows, maps.tables.grace(entry.slot, bank), bank)
"""


def test_table_diff_finds_a_row_that_the_agent_did_not_write(cluster: ClusterLab) -> None:
    assert "all 65,536 rows in the kernel are what the members make" in cluster.lbctl("b1", "table", "diff")
    file = cluster.lab.root("b1") / "run/b2.rows"
    file.write_text(json.dumps(cluster.lbctl("b2", "table", "show", "--rows", "-o", "json")))
    b2 = cluster.addresses["b2"]
    assert cluster.lbctl("b1", "table", "diff", "/run/b2.rows") == f"echo: all 65,536 rows are those of {b2}\n"
    cluster.lab.exec("b1", ["python", "-c", SWAP_TWO_PLACES])
    try:
        found = cluster.lbctl("b1", "table", "diff", "-o", "json", code=1)["services"][0]
        text = cluster.lbctl("b1", "table", "diff", "--service", "echo", code=1)
        beside = cluster.lbctl("b1", "table", "diff", "/run/b2.rows", code=1)
    finally:
        cluster.lab.exec("b1", ["python", "-c", SWAP_TWO_PLACES])
    assert (found["differing"], found["owners_differing"]) == (1, 1)
    (row,) = found["shown"]
    assert (row["row"], row["kernel"][:2]) == (7, [row["computed"][1], row["computed"][0]])
    assert "1 of 65,536 rows differ, 1 of them in their owner" in text
    assert " → ".join(row["kernel"]) in text
    assert f"1 of 65,536 rows differ from those of {b2}, 1 of them in their owner" in beside
    assert " → ".join(row["kernel"]) in beside
    assert cluster.lbctl("b1", "table", "diff", "-o", "json")["equal"]
