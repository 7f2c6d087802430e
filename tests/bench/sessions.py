# SPDX-License-Identifier: Apache-2.0
"""Part 8: what a million NAT sessions cost the agent. Prints JSON.

The slots are ordinary memory, all of them used by established sessions at rest: no packet changes them meanwhile.
`late` is how late timers fire while a thread does the work again and again, `control` the same while it sleeps. The
last row is the whole loop at rest, which scans once a second.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from bench import figures
from bench.connections import late_while
from support.session_slots import Slots

from agent.daemon.runtime import tune
from agent.sessions.keeper import SessionKeeper
from agent.sessions.listing import PART, read_pages
from agent.sessions.scan import limits, scan
from agent.sessions.selection import Selection
from agent.sessions.watch import SessionWatch
from bpf.maps.session_map import now_tick

SESSIONS: Final = 1 << 20
FREED: Final = 100_000
REST_S: Final = 10.0


def filled() -> Slots:
    """Return slots that all have a session."""
    slots = Slots(SESSIONS)
    tag, record = slots.put(0, now=now_tick()), slots.map.sessions4[0]
    slots.map.tags[:], slots.map.sessions4[:] = tag, record
    slots.loads[1] = SESSIONS, SESSIONS
    return slots


def list_all(slots: Slots) -> None:
    """Make all pages of a list."""
    for start in range(0, SESSIONS, PART):
        read_pages(slots.table, Selection(), start, None, now_tick())


def free_some(slots: Slots) -> None:
    """Free FREED sessions, and put them back."""
    places = np.arange(FREED) * (SESSIONS // FREED)
    tags = slots.map.tags[places]
    assert slots.table.free(places, tags) == FREED
    slots.map.tags[places] = tags


def row(work: str, number: int, rounds: int, run: Callable[[], object]) -> dict[str, Any]:
    """Return the figures of one kind of work on so many sessions."""
    took = []
    for _ in range(rounds):
        began = time.thread_time()
        run()
        took.append((time.thread_time() - began) * 1e3)
    late = {
        "late_ms_p999": asyncio.run(late_while(run)),
        "control_late_ms_p999": asyncio.run(late_while(partial(time.sleep, 0.2))),
    }
    return {"work": work, "sessions": number, "cpu_ms": figures.min_median(took, 1), **late}


async def at_rest(slots: Slots) -> float:
    """Return the share of a core that the loop takes."""
    watch = SessionWatch(slots.table, lambda: None, lambda _: None)  # type: ignore[arg-type, return-value]
    keeper = SessionKeeper(slots.table, watch, lambda: 0, {3: "web"}, lambda: None)
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(1)
    cpu_s, began = time.process_time(), time.monotonic()
    await asyncio.sleep(REST_S)
    share = (time.process_time() - cpu_s) / (time.monotonic() - began)
    running.cancel()
    return round(share, 4)


def measure(rounds: int) -> dict[str, Any]:
    """Return bench.json's `sessions`."""
    tune()
    slots = filled()
    return {
        "work": [
            row("scan", SESSIONS, rounds, lambda: scan(slots.map.tags, now_tick(), limits())),
            row("recount of backends", SESSIONS, rounds, slots.table.recount),
            row("list", SESSIONS, rounds, lambda: list_all(slots)),
            row("free", FREED, rounds, lambda: free_some(slots)),
        ],
        "rest_cpu": asyncio.run(at_rest(filled())),
    }


def main(arguments: Sequence[str]) -> None:
    """Print the figures of so many rounds."""
    print(json.dumps(measure(int(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
