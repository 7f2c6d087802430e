# SPDX-License-Identifier: Apache-2.0
"""Policy spread: evenly among instances, and within one to the listener of the CPU that handles a SYN.

A client of this node is pinned: the CPU that it runs on handles its SYN.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.instance_servers import VIP6, Servers, answers
from support.instances import by_pidfile, running
from support.waiting import wait_for

CPUS = sorted(os.sched_getaffinity(0))
BOTH = {"blue": "active", "green": "active"}
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU gets all there is")


@contextlib.contextmanager
def on(cpu: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def takers(cpu: int, count: int = 60, **where: str) -> tuple[set[str], set[str]]:
    """Open connections on a CPU; return which instances answered, and the CPUs of their listeners."""
    with on(cpu):
        found = Counter(answers(count, **where))
    names = [one.split() for one in found]
    return {name for name, _ in names}, {number for _, number in names}


@pytest.mark.parametrize("bound", ["listeners", "threads"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])  # noqa: S104 - in a namespace without a network
def test_the_listener_of_the_cpu_gets_it(
    servers: Servers, bpffs: Path, tmp_path: Path, bound: str, address: str
) -> None:
    servers.start("blue", by_cpu=bound, address=address)
    green = servers.start("green", by_cpu=bound, address=address)
    where = {"vip": VIP6} if address == "::" else {}
    with running(by_pidfile(tmp_path, policy="spread"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == BOTH)
        for cpu in CPUS:
            assert takers(cpu, **where) == ({"blue", "green"}, {str(cpu)})
        green.kill()
        for cpu in CPUS:
            assert takers(cpu, **where) == ({"blue"}, {str(cpu)})
    with running(by_pidfile(tmp_path, policy="spread"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"}, "the next agent asks the listeners again")
        assert takers(CPUS[0], **where) == ({"blue"}, {str(CPUS[0])})
    with running(by_pidfile(tmp_path), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        wait_for(lambda: takers(CPUS[0], **where)[1] == set(map(str, CPUS)), "another policy is not by CPU")


def test_a_server_that_binds_neither_gets_them_evenly(servers: Servers, bpffs: Path, tmp_path: Path) -> None:
    """The control: as many listeners as CPUs are not enough. With one CPU for all SYNs, one would get all."""
    servers.start("blue", by_cpu="nothing")
    with running(by_pidfile(tmp_path, policy="spread"), bpffs, tmp_path) as keeper:
        wait_for(lambda: keeper.states() == {"blue": "active"})
        assert takers(CPUS[0]) == ({"blue"}, set(map(str, CPUS)))
