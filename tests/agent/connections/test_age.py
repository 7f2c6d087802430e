# SPDX-License-Identifier: Apache-2.0
"""Since when connections are known, against a dictionary; and with the cookies of the real kernel."""

import contextlib
import random
import socket
from ipaddress import ip_address

import numpy as np
from support.sockets import service_of, sockets_of
from support.waiting import wait_for

from agent.connections.age import Ages
from agent.connections.dump import dump
from agent.connections.held import HeldCounter
from agent.table.epoch import Epoch


def test_a_socket_is_as_old_as_the_first_dump_that_has_it() -> None:
    choose, ages, known = random.Random(1), Ages(), dict[int, int]()
    for now in range(20):
        cookies = sorted(choose.sample(range(2**64 - 60, 2**64), choose.choice([0, 5, 30])))
        known = {cookie: known.get(cookie, now) for cookie in cookies}
        since = ages.update(np.array(cookies, np.uint64), now)
        assert since.tolist() == [known[cookie] for cookie in cookies]


def test_the_oldest_of_each_service() -> None:
    services, ages = [service_of("10.99.0.1", 443), service_of("2001:db8::1", 443), service_of("10.99.0.2", 80)], Ages()
    ends = [((vip, 443), ("2001:db8::9" if ":" in vip else "192.0.2.1", port)) for vip in ("10.99.0.1", "2001:db8::1")
            for port in (1, 2)]  # fmt: skip
    sockets = sockets_of(ends)
    sockets["cookie"] = 10, 8, 9, 7

    def oldest(chosen: list[int], now: int) -> dict[str, int]:
        counter = HeldCounter(services, [Epoch(1, 1, 4096, 4, bytes(16))])
        for one in chosen:
            counter.add(sockets[[one]])
        return counter.oldest(ages, now)

    four, six = services[0].key, services[1].key
    assert oldest([], 1) == {}
    assert oldest([0, 3], 2) == {four: 2, six: 2}
    assert oldest([1, 3, 0, 2], 3) == {four: 2, six: 2}
    assert oldest([1, 3], 4) == {four: 3, six: 2}
    assert oldest([0, 3], 5) == {four: 5, six: 2}, "what was gone is new again"
    assert oldest([0, 2], 6) == {four: 5, six: 6}


def test_the_kernel_gives_each_socket_a_number_of_its_own_that_stays() -> None:
    def cookies() -> list[int]:
        chunks = dump("tcp", [ip_address("127.77.3.1")])
        return sorted(int(one["cookie"]) for chunk in chunks for one in chunk)

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.77.3.1", 0)))
        end = listener.getsockname()
        first = [stack.enter_context(socket.create_connection(end)) for _ in range(3)]
        wait_for(lambda: len(cookies()) == 3, "three connections")
        before = cookies()
        assert len({*before}) == 3
        stack.enter_context(socket.create_connection(end))
        wait_for(lambda: len(cookies()) == 4, "a connection more")
        assert {*before} < {*cookies()}
        assert first
