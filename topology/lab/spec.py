# SPDX-License-Identifier: Apache-2.0
"""What a containerlab file (a strict subset of it) says, merged and checked, as frozen dataclasses.

Owns: the supported keys, how defaults, kinds, groups and nodes merge, what is wrong with a file. Does not own: YAML
and variables (source.py), bringing anything up (lab.py). Pure but for `load`, which reads the one file.

Merging is containerlab's (types/topology.go):
1. kind: the node's, else its group's, else that of the default group, else the default one.
2. group: the node's, else its kind's, else the default one.
3. single values (image, network-mode, cmd): node, else group, else kind, else defaults.
4. maps (env, sysctls, labels): defaults, kind, group, node; the later wins key by key. binds too, by target.
5. exec: the lines of defaults, kind, group and node, in this order.
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topology.errors import LabError
from topology.lab.source import Value, parse

DEFAULT_MTU = 9500  # containerlab's
NODE_KEYS = ("kind", "group", "image", "network-mode", "binds", "exec", "env", "sysctls", "labels", "cmd")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")  # fit for a directory and a host
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Bind:
    """A host path that a node sees at `target`; both absolute."""

    source: Path
    target: str
    read_only: bool
    place: str  # file:line:column: path, for errors met later


@dataclass(frozen=True)
class Exec:
    """One command, run in the node after all links are there; split like a shell does, but run without one."""

    argv: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Node:
    """A node after merging."""

    name: str
    place: str
    group: str = ""
    image: str = ""  # kept for inspect: a node shows the host's files
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
    """A whole lab file."""

    name: str
    file: Path
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]


def load(path: Path, variables: Mapping[str, str]) -> Topology:
    """Read and check one file; `variables` are for ${...}. Raises LabError."""
    try:
        original = path.read_text()
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    return read(original, path, variables)


def read(original: str, path: Path, variables: Mapping[str, str]) -> Topology:
    """The text of a lab file that lies (or would lie) at `path`. Raises LabError with file, line and column."""
    top = parse(os.fspath(path), original, variables)
    entries = top.known(("name", "topology"))
    for key in ("name", "topology"):
        if key not in entries:
            top.fail(f"{key} is missing")
    topology = entries["topology"].known(("defaults", "kinds", "groups", "nodes", "links"))
    if "nodes" not in topology:
        entries["topology"].fail("nodes is missing")
    layers = _Layers(topology, path.absolute().parent)
    nodes = {name: layers.node(name, value) for name, value in topology["nodes"].entries().items()}
    if not nodes:
        topology["nodes"].fail("has no node")
    modes = {name: layers.network_mode(value) for name, value in topology["nodes"].entries().items()}
    links = _links(topology["links"], nodes, modes) if "links" in topology else ()
    return Topology(lab_name(entries["name"]), path.absolute(), nodes, links)


def lab_name(value: Value) -> str:
    """A lab's name, fit for a directory's."""
    name = value.string()
    if not NAME.fullmatch(name):
        value.fail(f"{name!r}: must be letters, digits, '-', '_' and '.', at most 63, a letter or digit first")
    return name


def _place(value: Value) -> str:
    try:
        value.fail_at_key("")
    except LabError as error:
        return str(error).removesuffix(": ")


class _Layers:
    """The four layers of node settings."""

    def __init__(self, topology: Mapping[str, Value], base: Path) -> None:
        self.base = base
        self.defaults = topology["defaults"].known(NODE_KEYS) if "defaults" in topology else {}
        self.kinds = self._section(topology, "kinds")
        self.groups = self._section(topology, "groups")
        for kind, value in (topology["kinds"].entries() if "kinds" in topology else {}).items():
            if kind != "linux":
                value.fail_at_key("unsupported kind; supported: linux")

    @staticmethod
    def _section(topology: Mapping[str, Value], key: str) -> dict[str, dict[str, Value]]:
        entries = topology[key].entries() if key in topology else {}
        return {name: value.known(NODE_KEYS) for name, value in entries.items()}

    def _of(self, own: Mapping[str, Value]) -> list[Mapping[str, Value]]:
        """The layers of a node from least to most specific."""
        group = own["group"].string() if "group" in own else ""
        default_group = self.defaults["group"].string() if "group" in self.defaults else ""
        kinds = (own, self.groups.get(group, {}), self.groups.get(default_group, {}), self.defaults)
        kind = next((layer["kind"].string() for layer in kinds if "kind" in layer), "")
        if not group:
            of_kind = self.kinds.get(kind, {})
            group = of_kind["group"].string() if "group" in of_kind else default_group
        return [self.defaults, self.kinds.get(kind, {}), self.groups.get(group, {}), own]

    def _last(self, layers: list[Mapping[str, Value]], key: str) -> Value | None:
        return next((layer[key] for layer in reversed(layers) if key in layer and not layer[key].is_null), None)

    def network_mode(self, value: Value) -> str:
        """The node's network-mode. There is no management network, so `none` is the only one that can be asked for."""
        mode = self._last(self._of(value.known(NODE_KEYS)), "network-mode")
        if mode is not None and mode.string() != "none":
            mode.fail(f"{mode.string()!r} is not supported; supported: none")
        return "none" if mode is not None else ""

    def node(self, name: str, value: Value) -> Node:
        own = value.known(NODE_KEYS)
        if not NAME.fullmatch(name):
            value.fail_at_key("a node's name must be letters, digits, '-', '_' and '.', at most 63")
        layers = self._of(own)
        kind_layers = [layers[0], layers[2], own]
        if "group" in own and own["group"].string() not in self.groups and self.groups:
            own["group"].fail(f"{own['group'].string()!r} is not in topology.groups")
        kind = self._last(kind_layers, "kind")
        if kind is None:
            value.fail_at_key("kind is missing (supported: linux)")
        if kind.string() != "linux":
            kind.fail(f"{kind.string()!r} is not supported; supported: linux")
        image, cmd, group = (self._last(layers, key) for key in ("image", "cmd", "group"))
        return Node(
            name=name,
            place=_place(value),
            group=group.string() if group else "",
            image=image.string() if image else "",
            cmd=_split(cmd) if cmd else (),
            binds=self._binds(layers),
            exec=tuple(
                Exec(_split(line), _place(line))
                for layer in layers
                if "exec" in layer
                for line in layer["exec"].items()
            ),
            env=_strings(layers, "env"),
            sysctls=_sysctls(layers),
            labels=_strings(layers, "labels"),
        )

    def _binds(self, layers: list[Mapping[str, Value]]) -> tuple[Bind, ...]:
        found: dict[str, Bind] = {}
        for layer in layers:
            for value in layer["binds"].items() if "binds" in layer else []:
                source, colon, rest = value.string().partition(":")
                target, _, mode = rest.partition(":")
                if not colon or not source or not target.startswith("/") or mode not in ("", "ro", "rw"):
                    value.fail(f"{value.string()!r}: must be SOURCE:TARGET or SOURCE:TARGET:ro, TARGET absolute")
                if source.startswith("~") or "__clab" in source:
                    value.fail(f"{source!r}: write the source absolute or relative to this file")
                target = os.path.normpath(target)
                found[target] = Bind(
                    Path(os.path.normpath(self.base / source)), target, read_only=mode == "ro", place=_place(value)
                )
        return tuple(found.values())


def _split(value: Value) -> tuple[str, ...]:
    if "__clab" in value.string():
        value.fail("containerlab's __clab...__ names are not supported")
    try:
        argv = tuple(shlex.split(value.string()))
    except ValueError as error:
        value.fail(f"{error} in {value.string()!r}")
    if not argv:
        value.fail("is an empty command")
    return argv


def _strings(layers: list[Mapping[str, Value]], key: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for layer in layers:
        for name, value in layer[key].entries().items() if key in layer else ():
            if name == "__IMPORT_ENVS":
                value.fail("is not supported: name the variables one by one")
            merged[name] = "" if value.is_null else value.scalar()
    return merged


def _sysctls(layers: list[Mapping[str, Value]]) -> dict[str, str]:
    for layer in layers:
        for name, value in layer["sysctls"].entries().items() if "sysctls" in layer else ():
            # Anything else is one for all namespaces: setting it would change the host.
            if not re.fullmatch(r"net\.[\w./-]+", name) or ".." in name:
                value.fail("only net.* can be set for a node alone")
    return _strings(layers, "sysctls")


def _links(section: Value, nodes: Mapping[str, Node], modes: Mapping[str, str]) -> tuple[Link, ...]:
    links: list[Link] = []
    used: dict[tuple[str, str], Value] = {}
    for value in section.items():
        entries = value.known(("type", "endpoints", "mtu"))
        extended = "type" in entries
        if extended and entries["type"].string() != "veth":
            entries["type"].fail(f"{entries['type'].string()!r} is not supported; supported: veth")
        points = entries["endpoints"].items() if "endpoints" in entries else []
        if len(points) != 2:
            value.fail("a link needs endpoints, exactly two")
        ends = [_end(point, extended) for point in points]
        for point, end in zip(points, ends, strict=True):
            if end.node not in nodes:
                point.fail(f"unknown node {end.node!r}; nodes: {', '.join(nodes)}")
            if end.interface == "eth0" and modes[end.node] != "none":
                point.fail("eth0 is containerlab's management interface unless the node has network-mode: none")
            if (end.node, end.interface) in used:
                point.fail(f"{end.node}:{end.interface} is already in {used[end.node, end.interface].path}")
            used[end.node, end.interface] = point
        mtu = entries["mtu"].integer(68, 65535) if "mtu" in entries else DEFAULT_MTU
        links.append(Link((ends[0], ends[1]), mtu, _place(value)))
    return tuple(links)


def _end(point: Value, extended: bool) -> End:
    mac: str | None = None
    if extended:
        entries = point.known(("node", "interface", "mac"))
        for key in ("node", "interface"):
            if key not in entries:
                point.fail(f"{key} is missing")
        node, interface = entries["node"].string(), entries["interface"].string()
        if "mac" in entries:
            mac = entries["mac"].string().lower().replace("-", ":")
            if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
                entries["mac"].fail(f"{mac!r} is not a unicast MAC address")
    else:
        node, colon, interface = point.string().partition(":")
        if not colon:
            point.fail(f"{point.string()!r}: must be NODE:INTERFACE")
    if not re.fullmatch(r"[^\s/:]{1,15}", interface) or interface in (".", "..", "lo", "all", "default"):
        point.fail(f"{interface!r}: an interface name has 1 to 15 characters, no '/', ':' or space, and is not lo")
    return End(node, interface, mac)
