# SPDX-License-Identifier: Apache-2.0
"""The runner's end of the sockets to the inits of a lab; node_setup.py has the messages.

Owns: starting an init, its readiness, keeping or ending it. Does not own: which nodes a lab has, in which order it is
built (build.py), programs in a node that is up (program.py).
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from topology.errors import LabError
from topology.lab.node_setup import BindMount, NodeSetup
from topology.lab.process import INIT_MODULE, LAB_VARIABLE, ProcessRef
from topology.lab.program import SYSTEM_PATH, environment
from topology.lab.spec import Node

PROJECT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
PROGRAMS = "/var/cache/anylb"
"""Where agents keep compiled programs (agent/paths.py). All nodes of all labs share them: else each would compile."""


class InitChannels:
    """The sockets to a lab's inits: each init dies when our end closes before `keep`."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self._channels: dict[str, socket.socket] = {}
        self._outers: dict[str, subprocess.Popen[bytes]] = {}  # end by themselves once their init is forked

    def start(self, node: Node) -> None:
        """Start a node's init; it sets the node up while the caller goes on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channels[node.name] = ours
        with theirs:
            # -S: without site-packages an interpreter starts in 10 ms; init.py needs the standard library alone.
            outer = subprocess.Popen(
                [sys.executable, "-S", "-m", INIT_MODULE, self.lab, node.name],
                env={LAB_VARIABLE: self.lab, "PATH": SYSTEM_PATH, "PYTHONPATH": os.fspath(PROJECT), "LANG": "C.UTF-8"},
                cwd="/",
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._outers[node.name] = outer
        setup = NodeSetup(
            hostname=node.name,
            binds=[
                *_programs(),
                *(BindMount(source=os.fspath(b.source), target=b.target, read_only=b.read_only) for b in node.binds),
            ],
            shared=sorted({os.fspath(PROJECT), sys.prefix}),
            sysctls=dict(node.sysctls),
            cmd=list(node.cmd),
            env=environment(self.lab, node),
        )
        ours.settimeout(READY_TIMEOUT_S)
        ours.sendall(json.dumps(setup).encode() + b"\n")

    def await_ready(self, node: Node) -> ProcessRef:
        """Wait until a node's mounts, sysctls and cmd are done. Raises LabError with the part that failed."""
        received: dict[str, Any] = {}
        while "ready" not in received or "pid" not in received:
            message = self._receive(node.name)
            if "error" in message:
                raise LabError(f"{node.place}: {message['error']}")
            if not message:
                raise LabError(f"{node.place}: the node's init died before the node was ready")
            received |= message
        self._outers.pop(node.name).wait()
        process = ProcessRef.of(int(received["pid"]))
        if process is None:
            raise LabError(f"{node.place}: {self.last_error(node.name) or 'the node died at once'}")
        return process

    def last_error(self, node: str) -> str:
        """Return the error that a dead node's init reported last, empty if none."""
        return str(self._receive(node).get("error", ""))

    def keep(self) -> None:
        """Let all nodes outlive this process."""
        for channel in self._channels.values():
            with suppress(OSError):  # it died this moment: as if it did a moment later
                channel.sendall(b"keep")
        self.close()

    def close(self, node: str | None = None) -> None:
        """Close the socket to one node or all: those without `keep` die."""
        for name in list(self._channels) if node is None else [node]:
            if channel := self._channels.pop(name, None):
                channel.close()
        if node is None:
            while self._outers:
                self._outers.popitem()[1].wait()

    def _receive(self, node: str) -> dict[str, Any]:
        """Return the next message of an init; empty if it is dead or silent."""
        line = b""
        try:
            while not line.endswith(b"\n"):
                byte = self._channels[node].recv(1)  # not more: the next message must stay in the socket
                if not byte:
                    return {}
                line += byte
        except OSError:
            return {}
        message: dict[str, Any] = json.loads(line)
        return message


def _programs() -> list[BindMount]:
    """Return the bind of the compiled programs: they are kept in the virtual environment, if there is one."""
    if sys.prefix == sys.base_prefix:
        return []
    kept = Path(sys.prefix, "lab-programs")
    kept.mkdir(mode=0o700, exist_ok=True)
    return [BindMount(source=os.fspath(kept), target=PROGRAMS, read_only=False)]
