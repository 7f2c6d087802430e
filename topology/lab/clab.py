# SPDX-License-Identifier: Apache-2.0
"""Reads a containerlab file (a strict subset of the format) into spec.py's dataclasses.

Owns: the supported keys outside of nodes, links, the lab's name. Does not own: YAML and variables (source.py), the
settings of nodes (layers.py), bringing anything up (lab.py). Pure but for `load`, which reads the one file.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from topology.errors import LabError
from topology.lab.layers import Layers
from topology.lab.source import Value, parse
from topology.lab.spec import NAME, End, Link, Node, Topology

DEFAULT_MTU = 9500  # containerlab's
# Names of containers, the management network, and variables of templates: a lab has none of these.
IGNORED_KEYS, IGNORED_LINK_KEYS, IGNORED_END_KEYS = (
    ("prefix", "mgmt", "settings", "debug"),
    ("vars", "labels"),
    ("vars",),
)
_INSTEAD = "give a .clab.yml file, as topology/segment.clab.yml"
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")


def load(path: Path, variables: Mapping[str, str]) -> Topology:
    """Read and check one file; `variables` are for ${...}. Raises LabError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a FIFO would have no end
            raise LabError(f"{path}: is no file; {_INSTEAD}")
        original = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}; {_INSTEAD}") from None
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    return read(original, path, variables)


def read(original: str, path: Path, variables: Mapping[str, str]) -> Topology:
    """Read the text of a lab file at `path`, which need not exist. Raises LabError with file, line and column."""
    top = parse(os.fspath(path), original, variables)
    entries = top.known(("name", "topology"), IGNORED_KEYS)
    for key in ("name", "topology"):
        if key not in entries:
            top.fail(f"{key} is missing")
    topology = entries["topology"].known(("defaults", "kinds", "groups", "nodes", "links"))
    if "nodes" not in topology:
        entries["topology"].fail("nodes is missing")
    layers = Layers(topology, path.absolute().parent)
    nodes = {name: layers.node(name, value) for name, value in topology["nodes"].entries().items()}
    if not nodes:
        topology["nodes"].fail("has no node")
    modes = {name: layers.network_mode(value) for name, value in topology["nodes"].entries().items()}
    links = _links(topology["links"], nodes, modes) if "links" in topology else ()
    return Topology(lab_name(entries["name"]), path.absolute(), nodes, links, top.text.warnings)


def lab_name(value: Value) -> str:
    """Return a lab's name, valid for a directory. Raises LabError."""
    name = value.string()
    if not NAME.fullmatch(name):
        value.fail(f"{name!r}: must be letters, digits, '-', '_' and '.', at most 63, a letter or digit first")
    return name


def _links(section: Value, nodes: Mapping[str, Node], modes: Mapping[str, str]) -> tuple[Link, ...]:
    links: list[Link] = []
    used: dict[tuple[str, str], Value] = {}
    for value in section.items():
        entries = value.known(("type", "endpoints", "mtu"), IGNORED_LINK_KEYS)
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
        links.append(Link((ends[0], ends[1]), mtu, value.place))
    return tuple(links)


def _end(point: Value, extended: bool) -> End:
    mac: str | None = None
    if extended:
        entries = point.known(("node", "interface", "mac"), IGNORED_END_KEYS)
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
