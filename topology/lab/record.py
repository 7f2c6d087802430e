# SPDX-License-Identifier: Apache-2.0
"""The records of labs below /run/anylb-lab, kept between runs, and the removal of labs by them.

Owns: the record's file, the lock of a lab, the names of all labs, removal. Does not own: which processes are our inits
and how they are killed (process.py).
"""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from topology.errors import LabError
from topology.lab.process import ProcessRef, find_inits, kill_inits
from topology.lab.spec import NAME

RECORDS = Path("/run/anylb-lab")


@dataclass
class LabRecord:
    """A lab's entry in /run/anylb-lab. `state` is `starting` until the lab is complete, then `up`."""

    name: str
    file: str
    state: str
    keep: bool
    owner: ProcessRef
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)  # pid, start, env, image, group, killed
    links: list[list[str]] = field(default_factory=list)  # node, interface, node, interface
    flapped: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # "node:interface" → what to add again

    def save(self) -> None:
        """Write it to a temporary file and rename that, so that a kill -9 never leaves half of it. Raises LabError."""
        directory = _folder(self.name)
        temporary = directory / "lab.json.new"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self)))
            temporary.rename(directory / "lab.json")
        except OSError as error:
            raise LabError(f"{error.filename or temporary}: {error.strerror}; labs are recorded there") from None

    @classmethod
    def load(cls, name: str) -> "LabRecord | None":
        """Read the record of a lab, None if there is none that can be read. Raises LabError: it is no name."""
        path = _folder(name) / "lab.json"
        try:
            data = json.loads(path.read_text())
            return cls(**{**data, "owner": ProcessRef(**data["owner"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def init_of(self, node: str) -> ProcessRef:
        """Return the recorded init of a node."""
        return ProcessRef(self.nodes[node]["pid"], self.nodes[node]["start"])

    @property
    def complete(self) -> bool:
        """Up, with every node alive that was not killed on purpose."""
        return self.state == "up" and all(self.init_of(n).alive for n, d in self.nodes.items() if not d["killed"])

    @property
    def stale(self) -> bool:
        """Left behind: never complete, not kept and its owner dead, or none of its nodes alive."""
        if self.state != "up" or (not self.keep and not self.owner.alive):
            return True
        return not any(self.init_of(node).alive for node in self.nodes)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time work on a lab. The kernel drops the abstract socket with its holder; no file stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(f"\0anylb-lab/{name}")
        except OSError:
            raise LabError(f"lab {name}: another process brings it up or down right now; try again") from None
        yield


def names() -> list[str]:
    """Return the labs that have a record, readable or not."""
    try:
        return sorted(entry.name for entry in RECORDS.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def remove(name: str) -> bool:
    """Kill all inits of a lab and delete its record; return whether there was anything. The caller holds its lock.

    Raises LabError: it is no name.
    """
    directory = _folder(name)
    inits = [process for lab, _, process in find_inits() if lab == name]
    kill_inits(inits)
    recorded = directory.exists()
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        RECORDS.rmdir()
    return bool(inits) or recorded


def _folder(name: str) -> Path:
    """Return the folder of a lab. Raises LabError for a name that leads elsewhere: `/` would remove all files here."""
    if not NAME.fullmatch(name):
        raise LabError(f"{name!r} is no name of a lab; it has letters, digits, '-', '_' and '.', 63 at most")
    return RECORDS / name


def remove_stale() -> list[str]:
    """Remove the labs of killed runs and return their names. A lab that is up, or coming up, is not touched."""
    removed = []
    for name in sorted({*names(), *(lab for lab, _, _ in find_inits())}):
        try:
            with lock(name):
                record = LabRecord.load(name)
                if (record is None or record.stale) and remove(name):
                    removed.append(name)
        except LabError:
            continue  # another process works on it
    return removed
