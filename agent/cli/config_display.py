# SPDX-License-Identifier: Apache-2.0
"""The effective configuration as YAML for people, with its defaults marked. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_LIST_KEYS = {"services": ("name",), "bgp.peers": ("address",), "services.backends": ("address", "port")}
_PLAIN = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./@-]*")
_MARK = "  # default"


def as_yaml(config: Mapping[str, Any], defaults: frozenset[str]) -> str:
    """Return a configuration as YAML. `defaults`: the paths of settings that the file does not give."""
    return "\n".join(_mapping(config, "", "", "", defaults))


def _mapping(values: Mapping[str, Any], path: str, kind: str, indent: str, defaults: frozenset[str]) -> Iterator[str]:
    for key, value in values.items():
        here, generic = f"{path}.{key}".lstrip("."), f"{kind}.{key}".lstrip(".")
        mark = _MARK if here in defaults else ""
        if isinstance(value, dict):
            yield f"{indent}{key}:{mark}"
            yield from _mapping(value, here, generic, f"{indent}  ", defaults)
        elif generic in _LIST_KEYS:
            yield f"{indent}{key}:{mark}"
            for entry in value:
                name = ":".join(str(entry[part]) for part in _LIST_KEYS[generic])
                lines = list(_mapping(entry, f"{here}[{name}]", generic, f"{indent}    ", defaults))
                yield f"{indent}  - {lines[0].lstrip()}"
                yield from lines[1:]
        else:
            yield f"{indent}{key}: {_flow(value)}{mark}"


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in ("yes", "no", "on", "off", "true"):
        return value if not re.fullmatch(r"[0-9.e+_-]*", value) or value.count(".") == 3 else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
