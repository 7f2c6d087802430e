# SPDX-License-Identifier: Apache-2.0
"""Part 4, the daemon's memory in a large cluster: all that the agent imports, its data path, the tables of a service.

A process of its own applies the changes of a day with as many members as the node table holds. Prints MB.
"""

import asyncio
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from bench import testrun

from agent.cli import main as cli  # noqa: F401 - what an agent has in memory
from agent.config.epoch import supported_epochs
from agent.config.file import parse
from agent.daemon.runtime import tune
from agent.forwarding.map_writer import MapWriter
from agent.model import Candidate, State
from agent.table.epoch import EpochSwitch, EpochUse
from bpf.attach.datapath import DataPath

MEMBERS: Final = 1023
FIRST: Final = int(IPv4Address("10.0.0.1"))
TEXT: Final = """\
cluster: 7
node: {interface: lo}
services:
  - {name: web, vip: 192.0.2.10, protocol: tcp, port: 443}
bgp: {local_as: 65001, identity_prefix: 10.254.0.0/16, peers: [{address: 10.0.0.1, as: 65000}]}
members: {allow: [10.0.0.0/16], key: none}
"""


def resident_mb() -> float:
    """Return the resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024, 1)


async def apply_changes() -> None:
    """Apply all members, then one of them drained, lighter, heavier, gone, and back."""
    config = parse(TEXT, "lb.yml")
    epochs = supported_epochs(config)
    datapath = DataPath.open(Path("/sys/fs/bpf/large"), "lo")
    map_writer = MapWriter(config, epochs, datapath, IPv4Address(FIRST), None, ())
    members = [Candidate(IPv4Address(FIRST + number), 100, 100, State.UP) for number in range(MEMBERS)]
    one = members[7]
    changed = [
        members,
        [*members[:7], replace(one, effective=0, state=State.DRAINING), *members[8:]],
        [*members[:7], replace(one, effective=30), *members[8:]],
        [*members[:7], replace(one, weight=150, effective=150), *members[8:]],
        [*members[:7], *members[8:]],
        members,
    ]
    for now, these in enumerate(changed):
        ends = dict.fromkeys((c.address for c in these), None)
        epoch_switch = EpochSwitch(EpochUse(epochs[0].number))
        await map_writer.apply({"web": tuple(these)}, {"web": True}, ends, epoch_switch, time.monotonic() + now)


if __name__ == "__main__":
    tune()
    testrun.isolate()
    asyncio.run(apply_changes())
    print(resident_mb())
