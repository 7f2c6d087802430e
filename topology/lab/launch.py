# SPDX-License-Identifier: Apache-2.0
"""Starting nodes and programs in them.

Owns: the runner's side of the talk with an init (agent.py draws it), a node's environment, entering its namespaces.
Does not own: which nodes there are, in which order things happen (lab.py).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from topology.errors import LabError
from topology.lab import netns
from topology.lab.init import NodeSetup
from topology.lab.record import LAB_VARIABLE, Process
from topology.lab.spec import Node

PROJECT = Path(__file__).resolve().parents[2]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_TIMEOUT_S = 20.0
# Entered by nsenter; the pid namespace is not among them, since the program is born in it.
ENTERED = (("net", "net"), ("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc"))
CANNOT_EXECUTE = "nsenter: failed to execute "  # how its standard error begins if there is no such program

Output = int | IO[bytes] | None


def require_machine() -> None:
    """Check what any lab needs of this machine. Raises LabError."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root (network namespaces, mounts): run it with sudo")
    if shutil.which("nsenter", path=SYSTEM_PATH) is None:
        raise LabError("nsenter is missing: apt-get install util-linux")


def environment(lab: str, node: Node) -> dict[str, str]:
    """The environment of every program in a node: nothing of the host's, then what the file says.

    The running interpreter's directory is first in PATH, so that `lbctl` and `python` are this installation's.
    """
    path = f"{os.path.dirname(sys.executable)}:{SYSTEM_PATH}"
    base = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "HOSTNAME": node.name}
    return {**base, LAB_VARIABLE: lab, "ANYLB_NODE": node.name, **node.env}


class Inits:
    """The inits of a lab, held by this process: each dies when our end of its socket closes before `keep`."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self._channels: dict[str, socket.socket] = {}
        self._outers: dict[str, subprocess.Popen[bytes]] = {}  # end by themselves once their init is forked

    def start(self, node: Node) -> None:
        """Start a node's init; it sets the node up while the caller goes on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channels[node.name] = ours
        with theirs:
            # -S: without site-packages an interpreter starts in 10 ms; agent.py needs the standard library alone.
            outer = subprocess.Popen(
                [sys.executable, "-S", "-m", "topology.lab.init", self.lab, node.name],
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
            binds=[{"source": os.fspath(b.source), "target": b.target, "read_only": b.read_only} for b in node.binds],
            passed=sorted({os.fspath(PROJECT), sys.prefix}),
            sysctls=dict(node.sysctls),
            cmd=list(node.cmd),
            env=environment(self.lab, node),
        )
        ours.settimeout(READY_TIMEOUT_S)
        ours.sendall(json.dumps(setup).encode() + b"\n")

    def await_ready(self, node: Node) -> Process:
        """Wait until a node's mounts, sysctls and cmd are there. Raises LabError with what failed."""
        said: dict[str, Any] = {}
        while "ready" not in said or "pid" not in said:
            message = self._receive(node.name)
            if "error" in message:
                raise LabError(f"{node.place}: {message['error']}")
            if not message:
                raise LabError(f"{node.place}: the node's init died before the node was ready")
            said |= message
        self._outers.pop(node.name).wait()
        process = Process.of(int(said["pid"]))
        if process is None:
            raise LabError(f"{node.place}: {self.last_words(node.name) or 'the node died at once'}")
        return process

    def last_words(self, node: str) -> str:
        """Why a node that is dead is so, if its init said it."""
        return str(self._receive(node).get("error", ""))

    def keep(self) -> None:
        """Let all live on without this process."""
        for channel in self._channels.values():
            with suppress(OSError):  # it died this moment: as if it did a moment later
                channel.sendall(b"keep")
        self.close()

    def close(self, node: str | None = None) -> None:
        """Hang up on one node or all: those that are not to be kept die."""
        for name in list(self._channels) if node is None else [node]:
            if channel := self._channels.pop(name, None):
                channel.close()
        if node is None:
            while self._outers:
                self._outers.popitem()[1].wait()

    def _receive(self, node: str) -> dict[str, Any]:
        """The next message of an init; empty if it is dead or silent."""
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


def start_program(
    pid: int, argv: Sequence[str], env: Mapping[str, str], stdin: Output, output: tuple[Output, Output], session: bool
) -> subprocess.Popen[bytes]:
    """Start a program in the node whose init is `pid`; `env` is its whole environment.

    nsenter replaces itself by the program, so the Popen's pid is the program's own.
    """
    enter = [f"--{option}=/proc/{pid}/ns/{file}" for option, file in ENTERED]
    with netns.children_inside_pid(pid):
        return subprocess.Popen(
            ["nsenter", *enter, "--", *argv],
            env=env,
            stdin=stdin,
            stdout=output[0],
            stderr=output[1],
            start_new_session=session,
        )
