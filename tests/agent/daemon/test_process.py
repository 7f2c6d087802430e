# SPDX-License-Identifier: Apache-2.0
"""One agent after the other in a process: of the one before nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RELOADED = """
import asyncio, contextlib, os, signal, sys, weakref
from pathlib import Path
from types import SimpleNamespace
from agent.config.file import Loaded, parse
from agent.daemon import lifecycle, process, speaker
from agent.paths import Paths

TEXT = '''
cluster: 7
node: {interface: eth0}
services: [{name: web, vip: 192.0.2.10, protocol: tcp, port: 443}]
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/24], key: none}
xdp: {mode: "off"}
'''
folder = Path(sys.argv[1])
(folder / "lb.yml").write_text(TEXT)
agents = []

class Agent:
    ready, forwarder = True, None

    def __init__(self, config, paths, *_):
        self.config, self.paths, self.itself = config, paths, self  # only the collector frees it
        self.vips = SimpleNamespace(put_first=lambda: asyncio.sleep(0))
        self.nat = SimpleNamespace(refusal=lambda _: None)
        agents.append(weakref.ref(self))

    def members(self):
        return ()

    def problems(self):
        return ()

    def is_stuck(self, _):
        return False

    async def run(self, ending):
        await asyncio.sleep(0.1)  # what runs beside it has begun
        print([one() is not None for one in agents])
        os.kill(os.getpid(), signal.SIGHUP if len(agents) < 3 else signal.SIGTERM)
        await ending

async def nothing(*_):
    return SimpleNamespace(warnings=())

@contextlib.asynccontextmanager
async def serve(*_):
    yield

def load(text):
    return Loaded(folder / "lb.yml", TEXT, parse(TEXT, "lb.yml"))

process.Agent, process.control.serve = Agent, serve
process.own_interface = lifecycle.own_interface = speaker.Speaker.check = speaker.Speaker.follow = nothing
asyncio.run(process.run(load(None), Paths(run=folder, kept=folder), None, load, lambda _: None))
"""


@pytest.mark.slow
def test_an_agent_that_a_reload_ended_is_freed_when_the_next_one_runs(tmp_path: Path) -> None:
    """Its tables take megabytes. What is there when the heap is exempt from collections stays until the next reload."""
    command = [sys.executable, "-c", RELOADED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[True]", "[False, True]", "[False, False, True]"]
