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
            return any(bare[i : i + 3] == ["lbctl", "agent", "run"] for i in range(len(bare)))
        case "speaker":
            return "bgp.exabgp.connect" in bare
        case "relay":
            return any(word.startswith("relay.pyz") for word in bare)
        case "server":
            return any(list(argv[i : i + 2]) == ["-m", "topology.traffic.server"] for i in range(len(argv)))
    raise ValueError(daemon)


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
