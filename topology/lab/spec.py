# SPDX-License-Identifier: Apache-2.0
"""A lab as its file describes it, merged and checked: frozen dataclasses. Does not own: reading the file (clab.py)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")  # of a lab or node: valid for a directory and a host


@dataclass(frozen=True)
class Bind:
    """A host path that a node sees at `target`; both absolute."""

    source: Path
    target: str
    read_only: bool
    place: str  # file:line:column: path, for later errors


@dataclass(frozen=True)
class Exec:
    """One command, run in the node once all links exist; split as a shell does, but run without one."""

    argv: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Node:
    """A node after merging."""

    name: str
    place: str
    group: str = ""
    image: str = ""  # for inspect alone: a node has the host's files
    cmd: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()
    exec: tuple[Exec, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """One end of a link; `mac` None lets the kernel choose."""

    node: str
    interface: str
    mac: str | None = None


@dataclass(frozen=True)
class Link:
    """A veth pair."""

    ends: tuple[End, End]
    mtu: int
    place: str


@dataclass(frozen=True)
class Topology:
    """All that a lab file describes. `warnings`: keys of it that have no effect, each with its place."""

    name: str
    file: Path
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]
    warnings: tuple[str, ...] = ()
