# SPDX-License-Identifier: Apache-2.0
"""A lab: a containerlab file brought up as network namespaces, used, and taken down without a trace.

Owns: what people and tests call. Does not own: the file (spec.py), the order in which a lab is built (build.py), the
inside of a node (agent.py), links (link.py), records and remains (saved_state.py).

Every node's init hangs on a socket to the process that called `Lab.up`. If that process dies half-way, the inits
read end of file and die, and everything with them. Once all is up, a lab to be kept gets the word to stay.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from topology.errors import LabError
from topology.lab import launch, link, record, spec
from topology.lab.build import build
from topology.lab.record import Process, Record

EXEC_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class NodeHandle:
    """A node of a lab that is up. `pid` is its init's on the host."""

    name: str
    pid: int
    init: Process
    env: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """Whether its init still runs."""
        return self.init.alive

    @property
    def root(self) -> Path:
        """The node's file system, seen from the host."""
        return Path(f"/proc/{self.pid}/root")


class Lab:
    """A lab that is up; made by `Lab.up` or `Lab.find`."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._inits = launch.Inits(record.name)
        self._spawned: set[subprocess.Popen[bytes]] = set()
        self.name = record.name
        self.file = Path(record.file)

    @property
    def nodes(self) -> dict[str, NodeHandle]:
        """The nodes by name, in the file's order."""
        return {
            name: NodeHandle(name, data["pid"], self._record.init_of(name), data["env"])
            for name, data in self._record.nodes.items()
        }

    @classmethod
    def up(
        cls,
        path: Path,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        *,
        keep: bool = True,
        reconfigure: bool = False,
        keep_failed: bool = False,
    ) -> "Lab":
        """Bring the lab of a file up.

        `name` overrides the file's; `env` is added to the environment for ${...} in the file. With `keep=False` the
        lab dies with this object and its process, by kill -9 too. Remains of an earlier run of the same name are
        removed first; a lab that is whole is an error unless `reconfigure`. What fails takes the lab down again; with
        `keep_failed` a failed `exec` line leaves it up, to be looked at. Raises LabError.
        """
        launch.require_machine()
        topology = spec.load(Path(path), {**os.environ, **(env or {})})
        name = topology.name if name is None else name
        if not spec.NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: must be letters, digits, '-', '_' and '.', a letter or digit first")
        for bind in (bind for node in topology.nodes.values() for bind in node.binds):
            if not bind.source.exists():
                raise LabError(f"{bind.place}: bind source {bind.source} does not exist")
        with record.lock(name):
            earlier = Record.load(name)
            if earlier and earlier.whole and not earlier.stale and not reconfigure:
                raise LabError(f"lab {name} is already up: take it down with `lbctl lab down {earlier.file}`")
            record.remove(name)
            owner = Process.of(os.getpid())
            assert owner is not None  # this very process
            lab = cls(Record(name, os.fspath(topology.file), "starting", keep, owner))
            try:
                failure = build(topology, lab._record, lab._inits, lab.exec, keep_failed)
            except BaseException:
                lab._take_down()
                raise
        if failure:
            raise failure
        return lab

    @classmethod
    def find(cls, name: str) -> "Lab":
        """A lab that is up, by name. Raises LabError."""
        record = Record.load(name)
        if record is None or record.stale:
            raise LabError(f"lab {name} is not up: bring it up with `lbctl lab up FILE`")
        return cls(record)

    @staticmethod
    def remove(name: str) -> bool:
        """Remove whatever there is of a lab, half-built or killed too; whether there was anything. Raises LabError."""
        launch.require_machine()
        with record.lock(name):
            return record.remove(name)

    def down(self) -> None:
        """Take the lab down: all processes, namespaces, links and the record. Also if parts of it are gone."""
        with record.lock(self.name):
            self._take_down()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def root(self, node: str) -> Path:
        """A node's file system, seen from the host."""
        return self._node(node).root

    def spawn(
        self,
        node: str,
        argv: Sequence[str],
        log: Path | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in a node and return at once; its output goes to `log` (appended; a path on the host).

        The Popen's pid is the program's own on the host: it can be killed and waited for directly.
        """
        if isinstance(log, Path):
            with log.open("ab") as file:
                return self._start(node, argv, env, (file, file))
        output = subprocess.DEVNULL if log is None else log
        return self._start(node, argv, env, (output, output))

    def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = EXEC_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a node to its end. Raises LabError if it cannot run, fails (`check`) or takes too long.

        Output is kept in files and not in pipes: a background child that inherited them does not hold this call.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self._start(node, argv, env, (out, err))
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise LabError(f"{node}: `{' '.join(argv)}` did not end within {timeout:g} s") from None
            finally:
                self._spawned.discard(process)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        done = subprocess.CompletedProcess(list(argv), code, *texts)
        if done.stderr.startswith(launch.CANNOT_EXECUTE):
            raise LabError(f"{node}: {done.stderr.removeprefix(launch.CANNOT_EXECUTE).strip()}")
        if check and code != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise LabError(f"{node}: `{' '.join(argv)}` exited with {code}" + (f": {said[-1]}" if said else ""))
        return done

    def attach(self, node: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Run a program in a node on this process's own terminal; its exit status."""
        extra = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
        process = self._start(node, argv, {**extra, **(env or {})}, (None, None), attached=True)
        earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program in the node
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGINT, earlier)
            self._spawned.discard(process)

    def link(self, node: str, interface: str, up: bool) -> None:
        """Set an interface up or down; `up` adds the routes again that `down` removed (those set by hand)."""
        key = f"{node}:{interface}"
        pid = self._node(node).pid
        if up:
            link.set_up(pid, interface, self._record.flapped.pop(key, []))
        else:
            # A second `down` finds no routes: what the first saved stays.
            self._record.flapped[key] = link.set_down(pid, interface) or self._record.flapped.get(key, [])
        self._record.save()

    def kill(self, node: str) -> None:
        """Power loss: all processes of a node and its links end at once. The rest of the lab stays."""
        handle = self._node(node)
        self._record.nodes[node]["killed"] = True
        self._record.save()
        # Links first, else the dying processes would still take leave of their peers (FIN).
        for a, a_interface, b, b_interface in self._record.links:
            if node in (a, b):
                link.remove(handle.pid, a_interface if a == node else b_interface)
        record.kill([handle.init])
        self._inits.close(node)

    def inspect(self) -> dict[str, Any]:
        """The lab as plain data: its file, its nodes, their processes and interfaces."""
        nodes = []
        for name, handle in self.nodes.items():
            data = self._record.nodes[name]
            nodes.append(
                {
                    "name": name,
                    "alive": handle.alive,
                    "pid": handle.pid,
                    "group": data["group"],
                    "image": data["image"],
                    "labels": data["labels"],
                    "interfaces": link.interfaces(handle.pid) if handle.alive else [],
                }
            )
        links = [[f"{a}:{a_interface}", f"{b}:{b_interface}"] for a, a_interface, b, b_interface in self._record.links]
        keep = self._record.keep
        return {"name": self.name, "file": os.fspath(self.file), "keep": keep, "nodes": nodes, "links": links}

    def _node(self, name: str) -> NodeHandle:
        if name not in self._record.nodes:
            raise LabError(f"lab {self.name} has no node {name!r}; nodes: {', '.join(self._record.nodes)}")
        handle = self.nodes[name]
        if not handle.alive:
            raise LabError(f"node {name} of lab {self.name} is dead (killed, or its cmd ended)")
        return handle

    def _start(
        self,
        node: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        output: tuple[launch.Output, launch.Output],
        *,
        attached: bool = False,
    ) -> subprocess.Popen[bytes]:
        handle = self._node(node)
        self._spawned -= {process for process in list(self._spawned) if process.poll() is not None}
        stdin = None if attached else subprocess.DEVNULL
        merged = {**handle.env, **(env or {})}
        process = launch.start_program(handle.pid, argv, merged, stdin, output, session=not attached)
        self._spawned.add(process)
        return process

    def _take_down(self) -> None:
        """Kill what this object started, then the inits and all in their nodes, then those still in the making.

        In this order: a zombie of ours would hold its pid namespace, and an init that we hung up on first would have
        let go of its namespaces before anyone could ask who else is in them, and so be waited for alone.
        """
        for process in self._spawned:
            process.kill()
            process.wait()
        self._spawned.clear()
        record.remove(self.name)
        self._inits.close()
        record.remove(self.name)
