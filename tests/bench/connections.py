# SPDX-License-Identifier: Apache-2.0
"""Part 7: what it takes to count the connections that a node holds, and how late the event loop is. Prints JSON.

Real sockets, in a network namespace of this process: clients connect and close, and the listener, which accepts none,
keeps its ends in CLOSE-WAIT without a descriptor. A million of these would take 3 GB of the kernel's memory, so a dump
of so many is made here: without the kernel's share of the work. `late` is how late timers fire while one count follows
the other, `control` the same while a thread sleeps.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench import figures, testrun
from bench.scale import late_ms

from agent.config.service import ServiceConfig
from agent.connections.age import Ages
from agent.connections.diag_message import Sockets, read_sockets
from agent.connections.held import HeldCounter, HeldRows
from agent.connections.monitor import count
from agent.daemon.runtime import tune
from agent.table.epoch import Epoch

VIP: Final = IPv4Address("10.99.0.1")
PORT: Final = 443
PORTS: Final = 25_000
"""Of each client address."""
REAL: Final = (10_000, 100_000)
MADE: Final = 1_000_000
MADE_SERVICES: Final = 50
MESSAGE_BYTES: Final = 112
CHUNK_BYTES: Final = 9_000 * MESSAGE_BYTES
LATE_S: Final = 5.0
EPOCH: Final = Epoch(1, 1, 65_536, 4, bytes(16))

Held = Mapping[str, Mapping[int, HeldRows]]


def services(number: int) -> list[ServiceConfig]:
    """Return so many services, each on a VIP of its own."""
    common = {"protocol": "tcp", "port": PORT}
    return [ServiceConfig.model_validate({"name": f"s{i}", "vip": str(VIP + i)} | common) for i in range(number)]


def listen() -> socket.socket:
    """Return a listener whose queue has room for all, in a network namespace of this process."""
    testrun.isolate()
    subprocess.run(["ip", "address", "add", f"{VIP}/32", "dev", "lo"], check=True)
    Path("/proc/sys/net/core/somaxconn").write_text(str(2 * max(REAL)))
    listener = socket.create_server((str(VIP), PORT), backlog=2 * max(REAL))
    listener.settimeout(0)
    return listener


def connect(first: int, end: int) -> None:
    """Open connections by these numbers: their clients have closed."""
    for number in range(first, end):
        with socket.socket() as client:
            client.bind((str(IPv4Address("127.1.0.1") + number // PORTS), 1024 + number % PORTS))
            client.connect((str(VIP), PORT))


def made_dump() -> memoryview:
    """Return a dump of `MADE` sockets of `MADE_SERVICES` services."""
    generator = np.random.default_rng(1)
    vips = [int.from_bytes((VIP + i).packed, "little") for i in range(MADE_SERVICES)]
    words = np.zeros((MADE, MESSAGE_BYTES // 4), np.uint32)
    words[:, :2], words[:, 4] = (MESSAGE_BYTES, 20), 2 | 1 << 8
    words[:, 5] = socket.htons(PORT) | generator.integers(1, 1 << 16, MADE) << 16
    words[:, 15] = generator.permutation(MADE)  # the cookies
    words[:, 6], words[:, 10] = generator.choice(vips, MADE), generator.integers(1 << 24, 1 << 32, MADE)
    return words.data.cast("B")


def chunks(dump: memoryview) -> Iterator[Sockets]:
    """Yield the sockets of a dump as they are read from the kernel's."""
    for start in range(0, len(dump), CHUNK_BYTES):
        yield read_sockets(dump[start : start + CHUNK_BYTES])[0]


async def late_while(work: Callable[[], object]) -> float:
    """Return how late the loop's timers fire, in ms, while a thread does the work again and again."""

    async def repeat() -> None:
        while True:
            await asyncio.to_thread(work)

    repeating = asyncio.create_task(repeat())
    late = await late_ms(LATE_S)
    repeating.cancel()
    return late


def memory_kb(field: str) -> int:
    """Return a line of this process's memory: VmRSS now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measured(kind: str, sockets: int, number: int, rounds: int, work: Callable[[], Held]) -> dict[str, Any]:
    """Return the figures of one count, which `work` makes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before_kb = memory_kb("VmRSS")
    took = []
    for _ in range(rounds):
        began = time.thread_time()
        held = work()
        took.append((time.thread_time() - began) * 1e3)
        counted = sum(by_epoch[EPOCH.number].total for by_epoch in held.values())
        assert counted == sockets, f"{counted} of {sockets} were counted"
    return {
        "kind": kind,
        "sockets": sockets,
        "services": number,
        "cpu_ms": figures.min_median(took, 1),
        "peak_mb": round((memory_kb("VmHWM") - before_kb) / 1024, 1),
        "late_ms_p999": asyncio.run(late_while(work)),
        "control_late_ms_p999": asyncio.run(late_while(partial(time.sleep, 0.2))),
    }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return bench.json's `connections`."""
    tune()
    one, many = services(1), services(MADE_SERVICES)
    found, opened, ages = [], 0, {"tcp": Ages()}
    with listen():
        for sockets in REAL:
            connect(opened, sockets)
            opened = sockets
            found.append(measured("the kernel's", sockets, 1, rounds, lambda: count(one, [EPOCH], ages).rows))
    dump = made_dump()
    work = partial(count_made, dump, many, Ages())
    return [*found, measured("made, without the kernel's share", MADE, MADE_SERVICES, rounds, work)]


def count_made(dump: memoryview, of: Sequence[ServiceConfig], ages: Ages) -> Held:
    """Count the connections of services in a dump that was made."""
    counter = HeldCounter(of, [EPOCH])
    for sockets in chunks(dump):
        counter.add(sockets)
    rows = counter.rows()
    counter.oldest(ages, int(time.monotonic()))
    return rows


def main(arguments: Sequence[str]) -> None:
    """Print the figures of so many rounds."""
    print(json.dumps(measure(int(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
