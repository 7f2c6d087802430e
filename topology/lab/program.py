# SPDX-License-Identifier: Apache-2.0
"""Programs in a node that is up: their environment, how they enter its namespaces, running them to their end.

Owns: the processes that this process started in nodes. Does not own: the inits (init_channel.py, process.py).
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from topology.errors import LabError
from topology.lab import netns
from topology.lab.process import LAB_VARIABLE, ProcessRef
from topology.lab.spec import Node

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Entered by nsenter. The pid namespace is not among them: the program is a child born in it.
ENTERED = (("net", "net"), ("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc"))
CANNOT_EXECUTE = "nsenter: failed to execute "  # how its standard error begins if there is no such program

Output = int | IO[bytes] | None


def environment(lab: str, node: Node) -> dict[str, str]:
    """Return the environment of every program in a node: nothing of the host's, then the file's.

    The running interpreter's directory is first in PATH, so that `lbctl` and `python` are this installation's.
    """
    path = f"{os.path.dirname(sys.executable)}:{SYSTEM_PATH}"
    base = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "HOSTNAME": node.name}
    return {**base, LAB_VARIABLE: lab, "ANYLB_NODE": node.name, **node.env}


@dataclass(frozen=True)
class NodeHandle:
    """A node of a lab that is up. `pid` is its init's on the host."""

    name: str
    pid: int
    init: ProcessRef
    env: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """Whether its init still runs."""
        return self.init.alive

    @property
    def root(self) -> Path:
        """The node's file system, as a path on the host."""
        return Path(f"/proc/{self.pid}/root")


class Programs:
    """The programs that this process started in the nodes of a lab."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()

    def start(
        self, node: NodeHandle, argv: Sequence[str], env: Mapping[str, str] | None, output: tuple[Output, Output]
    ) -> subprocess.Popen[bytes]:
        """Start a program and return at once; `output` is its standard output and error."""
        return self._start(node, argv, env, subprocess.DEVNULL, output, session=True)

    def run(
        self,
        node: NodeHandle,
        argv: Sequence[str],
        *,
        check: bool,
        timeout: float | None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Raises LabError if it cannot run, fails (`check`) or takes too long.

        Output is kept in files and not in pipes: a background child that inherited them does not delay the return.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self.start(node, argv, env, (out, err))
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise LabError(f"{node.name}: `{' '.join(argv)}` did not end within {timeout:g} s") from None
            finally:
                self._running.discard(process)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        done = subprocess.CompletedProcess(list(argv), code, *texts)
        if done.stderr.startswith(CANNOT_EXECUTE):
            raise LabError(f"{node.name}: {done.stderr.removeprefix(CANNOT_EXECUTE).strip()}")
        if check and code != 0:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise LabError(f"{node.name}: `{' '.join(argv)}` exited with {code}" + (f": {lines[-1]}" if lines else ""))
        return done

    def attach(self, node: NodeHandle, argv: Sequence[str], env: Mapping[str, str] | None) -> int:
        """Run a program on this process's own terminal; return its exit status."""
        extra = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
        process = self._start(node, argv, {**extra, **(env or {})}, None, (None, None), session=False)
        earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program in the node
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGINT, earlier)
            self._running.discard(process)

    def kill_all(self) -> None:
        """Kill and reap all that still run."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()

    def _start(
        self,
        node: NodeHandle,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        stdin: Output,
        output: tuple[Output, Output],
        *,
        session: bool,
    ) -> subprocess.Popen[bytes]:
        """Start a program in a node. nsenter replaces itself by it, so the Popen's pid is the program's own."""
        self._running -= {process for process in list(self._running) if process.poll() is not None}
        enter = [f"--{option}=/proc/{node.pid}/ns/{file}" for option, file in ENTERED]
        with netns.children_inside_pid(node.pid):
            process = subprocess.Popen(
                ["nsenter", *enter, "--", *argv],
                env={**node.env, **(env or {})},
                stdin=stdin,
                stdout=output[0],
                stderr=output[1],
                start_new_session=session,
            )
        self._running.add(process)
        return process
