# SPDX-License-Identifier: Apache-2.0
"""The messages between the runner and a node's init: one JSON object per line, over a stream socket.

    runner                                   node
      │  NodeSetup                            │   outer process: unshare, fork
      │ ───────────────────────────────────►  │
      │  {"pid": HOST PID}                    │
      │ ◄───────────────────────────────────  │   outer process exits; its child is pid 1 of the node
      │  {"ready": true} | {"error": ...}     │   mounts, sysctls and cmd are done, or the reason of a failure
      │ ◄───────────────────────────────────  │
      │  keep                                 │   from now on the node outlives the runner
      │ ───────────────────────────────────►  │

End of file instead of `keep` (the runner died, by kill -9 too) ends the init, and with it, by pid_namespaces(7),
every process in the node; with the last of them go its mounts and links. Standard library only, as init.py.
"""

import json
import socket
from typing import Any, TypedDict


class BindMount(TypedDict):
    """One bind mount; `source` is absolute, on the host."""

    source: str
    target: str
    read_only: bool


class NodeSetup(TypedDict):
    """All that an init needs, from the runner."""

    hostname: str
    binds: list[BindMount]
    shared: list[str]  # host directories that stay visible even below one that becomes private
    sysctls: dict[str, str]
    cmd: list[str]
    env: dict[str, str]


class SetupError(Exception):
    """A part of the setup that failed, in one line."""


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one JSON line to the runner."""
    channel.sendall(json.dumps(message).encode() + b"\n")
