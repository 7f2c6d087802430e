# SPDX-License-Identifier: Apache-2.0
"""One cluster for all tests of this folder: each leaves it as it was, but for test_under_full_load.py, the last.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                     └── b5, echo server only
"""

from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR, ClusterLab, cluster_lab
from support.waiting import wait_for


@pytest.fixture(scope="package")
def cluster() -> Iterator[ClusterLab]:
    with cluster_lab("agent-test") as made:
        wait_for(lambda: made.next_hops() == set(FOUR), "four next hops")
        wait_for(made.tables_agree, "equal tables")
        yield made
