# SPDX-License-Identifier: Apache-2.0
"""The daemons of a server node: how each starts, where it logs, how its processes are found from the host."""

import os
from collections.abc import Sequence
from pathlib import Path

#: As in segment.clab.yml; a node's PATH begins with this virtual environment.
COMMANDS = {
    "agent": ("lbctl", "agent", "run"),
    "speaker": ("lbctl", "bgp", "run"),
    "server": ("python", "-m", "topology.traffic.server"),
    "backend": ("python", "-m", "topology.traffic.server", "--address", "::", "--datagrams"),  # as in nat.clab.yml
}
LOGS = {"agent": "agent.log", "speaker": "bgp.log", "server": "server.log", "backend": "server.log"}


def is_daemon(daemon: str, argv: Sequence[str]) -> bool:
    """Return whether a command line is that of `agent`, `speaker` (ExaBGP), `relay` or `server`."""
    bare = [Path(word).name for word in argv]
    match daemon:
        case "agent":
            return _has(bare, ["lbctl", "agent", "run"])
        case "speaker":
            # `lbctl bgp run` becomes ExaBGP: one that has just been started is a speaker too.
            return "bgp.exabgp.connect" in bare or _has(bare, ["lbctl", "bgp", "run"])
        case "relay":
            return any(word.startswith("relay.pyz") for word in bare)
        case "server":
            return _has(argv, ["-m", "topology.traffic.server"])
    raise ValueError(daemon)


def _has(argv: Sequence[str], words: list[str]) -> bool:
    return any(list(argv[i : i + len(words)]) == words for i in range(len(argv)))


def find_pids(daemon: str, init_pid: int) -> list[int]:
    """Return the host pids of a daemon's processes in the node with this init."""
    namespace = os.stat(f"/proc/{init_pid}/ns/pid").st_ino
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            argv = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if argv and is_daemon(daemon, argv) and os.stat(f"/proc/{entry}/ns/pid").st_ino == namespace:
                found.append(int(entry))
        except OSError:  # it ended meanwhile
            continue
    return found
