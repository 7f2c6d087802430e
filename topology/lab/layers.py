# SPDX-License-Identifier: Apache-2.0
"""The settings of a node, merged from the layers of a containerlab file.

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
from pathlib import Path

from topology.lab.source import Value
from topology.lab.spec import NAME, Bind, Exec, Node

NODE_KEYS = ("kind", "group", "image", "network-mode", "binds", "exec", "env", "sysctls", "labels", "cmd")
# What shapes a container, its limits or its management network: a node has none of these, all capabilities and /dev.
IGNORED_NODE_KEYS = (
    "auto-remove", "cap-add", "cgroup-parent", "cgroupns-mode", "cpu", "cpu-set", "devices", "healthcheck",
    "image-pull-policy", "link-apply-mode", "memory", "mgmt-ipv4", "mgmt-ipv6", "ports", "privileged", "restart-policy",
    "runtime", "security-opts", "shm-size",
)  # fmt: skip


def _settings(value: Value) -> dict[str, Value]:
    return value.known(NODE_KEYS, IGNORED_NODE_KEYS)


class Layers:
    """The four layers of node settings; `base` is the folder that relative bind sources start from."""

    def __init__(self, topology: Mapping[str, Value], base: Path) -> None:
        self.base = base
        self.defaults = _settings(topology["defaults"]) if "defaults" in topology else {}
        self.kinds = self._section(topology, "kinds")
        self.groups = self._section(topology, "groups")
        for kind, value in (topology["kinds"].entries() if "kinds" in topology else {}).items():
            if kind != "linux":
                value.fail_at_key("unsupported kind; supported: linux")

    @staticmethod
    def _section(topology: Mapping[str, Value], key: str) -> dict[str, dict[str, Value]]:
        entries = topology[key].entries() if key in topology else {}
        return {name: _settings(value) for name, value in entries.items()}

    def _of(self, own: Mapping[str, Value]) -> list[Mapping[str, Value]]:
        """Return the layers of a node from least to most specific."""
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
        """Return a node's network-mode, `none` or empty: without a management network there is no other."""
        mode = self._last(self._of(_settings(value)), "network-mode")
        if mode is not None and mode.string() != "none":
            mode.fail(f"{mode.string()!r} is not supported; supported: none")
        return "none" if mode is not None else ""

    def node(self, name: str, value: Value) -> Node:
        """Merge the settings of one node. Raises LabError."""
        own = _settings(value)
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
            place=value.place,
            group=group.string() if group else "",
            image=image.string() if image else "",
            cmd=_split(cmd) if cmd else (),
            binds=self._binds(layers),
            exec=tuple(
                Exec(_split(line), line.place) for layer in layers if "exec" in layer for line in layer["exec"].items()
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
                    Path(os.path.normpath(self.base / source)), target, read_only=mode == "ro", place=value.place
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
            # Any other is shared by all namespaces: setting it would change the host.
            if not re.fullmatch(r"net\.[\w./-]+", name) or ".." in name:
                value.fail("only net.* can be set for a node alone")
    return _strings(layers, "sysctls")
