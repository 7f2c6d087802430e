# SPDX-License-Identifier: Apache-2.0
"""One cluster for all tests of this folder: each leaves it as it was, and begins when it is at rest.

client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay and agent, forward gue, and a key
                             │       └── b5, b6: echo servers, and what a test starts there
                             └ cuts nodes off, filters UDP ports
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_lab import ClusterLab, cluster_lab, copy_topology, edit, name_soon
from support.membership import KEY, KEY_FILE, settled
from support.waiting import wait_for


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the lab's files."""
    made = copy_topology(tmp_path_factory.mktemp("membership"))
    edit(made / "lb.yml", ("forward: l2", "forward: gue"), ("key: none", f"key_file: {KEY_FILE.name}"))
    name_soon(made)
    key = f'- sh -c "umask 077; echo {KEY} > {KEY_FILE}"\n        '
    edit(made / "segment.clab.yml", ("- mkdir -p /var/log/anylb", f"{key}- mkdir -p /var/log/anylb"))
    return made


@pytest.fixture(scope="package")
def running(folder: Path) -> Iterator[ClusterLab]:
    with cluster_lab("membership", folder / "segment.clab.yml") as made:
        yield made


@pytest.fixture
def cluster(running: ClusterLab) -> ClusterLab:
    """Return the cluster at rest."""
    wait_for(lambda: settled(running), "all to be announced, and to know the latest of each other")
    return running
