# SPDX-License-Identifier: Apache-2.0
"""A lab: a containerlab file brought up as network namespaces, used, and taken down without a trace.

Owns: the interface for people and tests, and a lab's life. Does not own: the file (clab.py), the order in which a lab
is built (build.py), the inside of a node (init.py), programs in nodes (program.py), links (link.py), records and the
removal of labs (record.py).

The init of each node has a socket to the process that called `Lab.up`. If that process dies half-way, the inits read
end of file and die, and all in their nodes with them. Once all is up, the nodes of a lab to be kept receive `keep`.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from topology.errors import LabError
from topology.lab import clab, link, record, spec
from topology.lab.build import build
from topology.lab.init_channel import InitChannels
from topology.lab.process import ProcessRef, kill_inits
from topology.lab.program import SYSTEM_PATH, NodeHandle, Output, Programs
from topology.lab.record import LabRecord

EXEC_TIMEOUT_S = 60.0


def require_machine() -> None:
    """Check what any lab needs of this machine. Raises LabError."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root (network namespaces, mounts): run it with sudo")
    if shutil.which("nsenter", path=SYSTEM_PATH) is None:
        raise LabError("nsenter is missing: apt-get install util-linux")


class Lab:
    """A lab that is up; made by `Lab.up` or `Lab.find`."""

    def __init__(self, record: LabRecord) -> None:
        self._record = record
        self._inits = InitChannels(record.name)
        self._programs = Programs()
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
        removed first; a complete lab of that name is an error unless `reconfigure`. A failure takes the lab down again;
        with `keep_failed` a failed `exec` line leaves it up, for inspection. Raises LabError.
        """
        require_machine()
        topology = clab.load(Path(path), {**os.environ, **(env or {})})
        name = topology.name if name is None else name
        if not spec.NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: must be letters, digits, '-', '_' and '.', a letter or digit first")
        for bind in (bind for node in topology.nodes.values() for bind in node.binds):
            if not bind.source.exists():
                raise LabError(f"{bind.place}: bind source {bind.source} does not exist")
        with record.lock(name):
            earlier = LabRecord.load(name)
            if earlier and earlier.complete and not earlier.stale and not reconfigure:
                down = f"lbctl lab down --name {name} {shlex.quote(earlier.file)}"
                raise LabError(f"lab {name} is already up: take it down with `{down}`")
            record.remove(name)
            owner = ProcessRef.of(os.getpid())
            assert owner is not None  # this very process
            lab = cls(LabRecord(name, os.fspath(topology.file), "starting", keep, owner))
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
        """Return a lab that is up, by name. Raises LabError."""
        require_machine()  # others do not see whether its nodes live
        record = LabRecord.load(name)
        if record is None or record.stale:
            raise LabError(f"lab {name} is not up: bring it up with `lbctl lab up FILE`")
        return cls(record)

    @staticmethod
    def remove(name: str) -> bool:
        """Remove all remains of a lab, half-built or killed too; return whether there were any. Raises LabError."""
        require_machine()
        with record.lock(name):
            return record.remove(name)

    def down(self) -> None:
        """Take the lab down: all processes, namespaces, links and the record, even if parts of it are gone."""
        with record.lock(self.name):
            self._take_down()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def root(self, node: str) -> Path:
        """Return a node's file system, as a path on the host."""
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
        handle = self._node(node)
        if isinstance(log, Path):
            with log.open("ab") as file:
                return self._programs.start(handle, argv, env, (file, file))
        output: Output = subprocess.DEVNULL if log is None else log
        return self._programs.start(handle, argv, env, (output, output))

    def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = EXEC_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a node to its end. Raises LabError if it cannot run, fails (`check`) or takes too long."""
        return self._programs.run(self._node(node), argv, check=check, timeout=timeout, env=env)

    def attach(self, node: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Run a program in a node on this process's own terminal; return its exit status."""
        return self._programs.attach(self._node(node), argv, env)

    def link(self, node: str, interface: str, up: bool) -> None:
        """Set an interface up or down; `up` adds the routes again that `down` removed (those set by hand)."""
        key = f"{node}:{interface}"
        pid = self._node(node).pid
        if up:
            link.set_up(pid, interface, self._record.flapped.pop(key, []))
        else:
            # A second `down` finds no routes: those that the first saved stay.
            self._record.flapped[key] = link.set_down(pid, interface) or self._record.flapped.get(key, [])
        self._record.save()

    def kill(self, node: str) -> None:
        """End all processes of a node and its links at once, as a power loss does. The rest of the lab stays."""
        handle = self._node(node)
        self._record.nodes[node]["killed"] = True
        self._record.save()
        # Links first, else the dying processes would still close their connections (FIN).
        for a, a_interface, b, b_interface in self._record.links:
            if node in (a, b):
                link.remove(handle.pid, a_interface if a == node else b_interface)
        kill_inits([handle.init])
        self._inits.close(node)

    def inspect(self) -> dict[str, Any]:
        """Return the lab as plain data: its file, its nodes, their processes and interfaces."""
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

    def _take_down(self) -> None:
        """Kill this object's programs, then the inits with all in their nodes, then the inits that are not ready yet.

        In this order. A zombie of ours would hold its pid namespace. An init whose socket is closed first would
        release its own namespaces before anyone could list the other processes in them, and only the init would be
        waited for.
        """
        self._programs.kill_all()
        record.remove(self.name)
        self._inits.close()
        record.remove(self.name)
