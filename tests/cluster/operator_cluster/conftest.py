# SPDX-License-Identifier: Apache-2.0
"""One cluster for all tests of this folder, in which an operator changes something: each leaves it as it was.

    client ── router (BIRD) ── segment ──┬── b1 … b4, each with ExaBGP, relay, agent and echo server
                                         └── b5 and b6, for the last test (support/changing_node.py)

All nodes read the same copy of lb.yml, which the tests change; a node without a reload goes on as before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.changing_node import SECOND_VIP
from support.cluster_lab import ClusterLab, be_patient, cluster_lab, copy_topology, edit
from support.operator_lab import Operator

from topology.demo.cluster import VIP
from topology.demo.router_watch import RouterWatch


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = copy_topology(tmp_path_factory.mktemp("operator"))
    be_patient(folder)
    edit(folder / "routers/bird.conf", ("vips_ipv4 = [ 10.99.0.1/32 ]", f"vips_ipv4 = [ {VIP}/32, {SECOND_VIP}/32 ]"))
    with (
        cluster_lab("operator", folder / "segment.clab.yml") as cluster,
        RouterWatch(cluster.lab.nodes["router"].pid, VIP) as watch,
    ):
        made = Operator(cluster, folder / "lb.yml", watch.history)
        made.settle()
        yield made


@pytest.fixture(scope="package")
def cluster(running: Operator) -> ClusterLab:
    return running.cluster
