# SPDX-License-Identifier: Apache-2.0
"""One lab of NAT for all tests of this folder, topology/nat.clab.yml: BIRD, ExaBGP, agents, XDP, and backends that know
nothing of anylb. Each test leaves it as it was, but for the last one of test_table.py.

    client ── router ──┬── segment ── b1 b2 b3 b4, later b5
                       └── farm ───── s1 s2 s3: their answers to the pool arrive at any node

What must live on: connections and UDP flows whose node and backend live.

The tests run in the order of their files' names. An address from which a backend closed connections (test_answers.py)
rests for a minute, so long before test_table.py waits for a pool to be empty.
"""

from collections.abc import Iterator

import pytest
from support.cluster_lab import FOUR
from support.nat_clients import Clients
from support.nat_lab import CONTROL_SOURCE, CONTROL_VIP, VIP, NatLab, nat_lab
from support.waiting import wait_for


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatLab]:
    with nat_lab("nat-test", tmp_path_factory.mktemp("nat")) as made:
        wait_for(lambda: made.serves(FOUR), "four nodes that do NAT")
        yield made


@pytest.fixture(scope="package")
def all_clients(lab: NatLab) -> Iterator[Clients]:
    nat = lab.traffic("nat", VIP, "10.1.1")
    control = lab.traffic("control", CONTROL_VIP, CONTROL_SOURCE)
    try:
        yield Clients(lab, nat, control, lab.sessions())
    finally:
        nat.quit()
        control.quit()


@pytest.fixture
def clients(all_clients: Clients) -> Iterator[Clients]:
    yield all_clients
    all_clients.close()
