# SPDX-License-Identifier: Apache-2.0
"""The router's next hops over time, on a real kernel: with routes as BIRD and as FRR write them."""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from support.waiting import wait_for

from topology.demo.router_watch import RouterWatch

pytestmark = pytest.mark.lab

VIP = "10.99.0.1"
ONE, TWO = frozenset({"10.0.0.11"}), frozenset({"10.0.0.11", "10.0.0.12"})


class Router:
    """A network namespace with a link 10.0.0.1/24, and its watch."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        for line in ("link add v0 type veth peer name v1", "address add 10.0.0.1/24 dev v0", "link set v1 up"):
            self.ip(line)
        self.ip("link set v0 up")
        self.watch = RouterWatch(pid, VIP)

    def ip(self, *lines: str) -> None:
        argv = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "-batch", "-"]
        subprocess.run(argv, input="\n".join(lines) + "\n", text=True, check=True)

    def becomes(self, hops: frozenset[str]) -> None:
        wait_for(lambda: self.watch.history.current == hops, f"{hops}")


@pytest.fixture
def router() -> Iterator[Router]:
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.005)
        router = Router(holder.pid)
        yield router
        router.watch.close()
    finally:
        holder.kill()
        holder.wait()


def test_next_hops_of_a_multipath_route_are_followed(router: Router) -> None:
    assert router.watch.history.current == frozenset()
    router.ip(f"route add {VIP}/32 nexthop via 10.0.0.11 dev v0 nexthop via 10.0.0.12 dev v0")
    router.becomes(TWO)
    since = time.monotonic()
    router.ip("route add 10.99.0.0/16 via 10.0.0.13 dev v0", f"route add {VIP}/32 via 10.0.0.14 table 77")
    router.ip(f"route replace {VIP}/32 via 10.0.0.11 dev v0")
    router.becomes(ONE)
    after_ms = router.watch.history.converged_after_ms(ONE, since)
    assert after_ms is not None
    assert 0 < after_ms <= 1000 * (time.monotonic() - since) + 1, "rounded"
    assert router.watch.history.changes(since) == [ONE]  # neither the prefix around it nor another table counted
    router.ip(f"route del {VIP}/32")
    router.becomes(frozenset())


def test_next_hops_of_a_nexthop_group_are_followed(router: Router) -> None:
    router.ip("nexthop add id 1 via 10.0.0.11 dev v0", "nexthop add id 2 via 10.0.0.12 dev v0")
    router.ip("nexthop add id 9 group 1/2", f"route add {VIP}/32 nhid 9")
    router.becomes(TWO)
    router.ip("nexthop replace id 9 group 1")
    router.becomes(ONE)


def test_a_loss_is_recorded_however_short(router: Router) -> None:
    both = f"route replace {VIP}/32 nexthop via 10.0.0.11 dev v0 nexthop via 10.0.0.12 dev v0"
    router.ip(both)
    router.becomes(TWO)
    since = time.monotonic()
    router.ip(*[f"route replace {VIP}/32 via 10.0.0.11 dev v0", both] * 20)  # one batch: microseconds apart
    wait_for(lambda: len(router.watch.history.changes(since)) >= 40, "all changes")
    router.becomes(TWO)
