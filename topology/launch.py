# SPDX-License-Identifier: Apache-2.0
"""Starting nodes and programs in them.

Owns: the runner's side of the talk with an init (node.py draws it), a node's environment, entering its namespaces.
Does not own: which nodes there are, in which order things happen (lab.py).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from topology import netns
from topology.errors import LabError
from topology.node import NodeSetup
from topology.spec import NAME, Node
from topology.state import LAB_VARIABLE, Process

PROJECT = Path(__file__).resolve().parent.parent
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_TIMEOUT_S = 20.0
# Entered by nsenter; the pid namespace is not among them, since the program is born in it.
ENTERED = (("net", "net"), ("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc"))

Output = int | IO[bytes] | None


def require(name: str) -> None:
    """Check what any lab needs of its name and this machine. Raises LabError."""
    if not re.fullmatch(NAME, name):
        raise LabError(f"lab name {name!r}: must be letters, digits, '-', '_' and '.', a letter or digit first")
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


def start_init(lab: str, node: Node) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a node's init: our end of the talk, and the outer process, which ends by itself once the init is forked.

    The init dies when our end is closed before it heard `keep`.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        # -S: without site-packages an interpreter starts in 10 ms; node.py needs the standard library alone.
        outer = subprocess.Popen(
            [sys.executable, "-S", "-m", "topology.node", lab, node.name],
            env={LAB_VARIABLE: lab, "PATH": SYSTEM_PATH, "PYTHONPATH": os.fspath(PROJECT), "LANG": "C.UTF-8"},
            cwd="/",
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    setup = NodeSetup(
        hostname=node.name,
        binds=[{"source": os.fspath(b.source), "target": b.target, "read_only": b.read_only} for b in node.binds],
        passed=sorted({os.fspath(PROJECT), sys.prefix}),
        sysctls=dict(node.sysctls),
        cmd=list(node.cmd),
        env=environment(lab, node),
    )
    ours.settimeout(READY_TIMEOUT_S)
    ours.sendall(json.dumps(setup).encode() + b"\n")
    return ours, outer


def await_ready(channel: socket.socket, node: Node) -> Process:
    """Wait until a node's mounts, sysctls and cmd are there. Raises LabError with what failed."""
    said: dict[str, Any] = {}
    while "ready" not in said or "pid" not in said:
        message = receive(channel)
        if "error" in message:
            raise LabError(f"{node.place}: {message['error']}")
        if not message:
            raise LabError(f"{node.place}: the node's init died before the node was ready")
        said |= message
    process = Process.of(int(said["pid"]))
    if process is None:
        raise LabError(f"{node.place}: {receive(channel).get('error', 'the node died at once')}")
    return process


def receive(channel: socket.socket) -> dict[str, Any]:
    """The next message of an init; empty if it is dead or silent."""
    line = b""
    try:
        while not line.endswith(b"\n"):
            byte = channel.recv(1)  # not more: the next message must stay in the socket
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
