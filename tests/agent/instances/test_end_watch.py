# SPDX-License-Identifier: Apache-2.0
"""The end of a process is an event, once."""

import asyncio
import subprocess

from support.instances import descriptors

from agent.instances.end_watch import EndWatch


def test_an_end_is_an_event_and_descriptors_are_closed() -> None:
    async def run() -> None:
        watch, before = EndWatch(), descriptors()
        one, other = (subprocess.Popen(["sleep", "1000"]) for _ in range(2))
        watch.watch([one.pid, other.pid])
        watch.watch([one.pid, other.pid])
        assert descriptors() == before + 2
        assert not watch.ended.is_set()
        one.kill()
        await asyncio.wait_for(watch.ended.wait(), 30)
        assert descriptors() == before + 1
        watch.ended.clear()
        watch.watch([one.pid, other.pid])
        await asyncio.sleep(0)
        assert not watch.ended.is_set(), "a second time, while its parent has not waited for it"
        one.wait()
        watch.watch([other.pid])
        watch.watch([one.pid, other.pid])
        assert watch.ended.is_set(), "it had ended before it was watched"
        watch.close()
        other.kill()
        other.wait()
        assert descriptors() == before

    asyncio.run(run())
