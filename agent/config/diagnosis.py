# SPDX-License-Identifier: Apache-2.0
"""From pydantic's errors and YAML's positions to `file:line:column: field: what is wrong`.

Owns the text and the position of every error in lb.yml. Does not own what settings mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

from topology.yaml_source import Position, SourceNode


def describe(root: SourceNode, name: str, details: Sequence[ErrorDetails]) -> list[str]:
    """Return one line for each error that pydantic found in the document below `root`, read from the file `name`."""
    # A list with a faulty entry is also "too short" to pydantic, which does not count the entry.
    real = [d for d in details if d["type"] != "too_short" or not any(_is_inside(other, d) for other in details)]
    return list(dict.fromkeys(_line(root, name, detail) for detail in real))


def place(root: SourceNode, name: str, *path: str | int) -> str:
    """Return `file:line:column: field` of a setting; the document must have it."""
    node = root
    for part in path:
        found = node.child(part)
        assert found is not None, path
        node = found
    return f"{at(name, node.position)}: {node.path}"


def at(name: str, position: Position) -> str:
    """Return `file:line:column`."""
    return f"{name}:{position.line}:{position.column}"


def _is_inside(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    return len(inner["loc"]) > len(outer["loc"]) and inner["loc"][: len(outer["loc"])] == outer["loc"]


def _line(root: SourceNode, name: str, detail: ErrorDetails) -> str:
    """Return one error as `file:line:column: field: what is wrong`; a missing field's position is its section's."""
    location = [*detail["loc"], *_parts(detail.get("ctx", {}).get("field", ""))]
    node, path = root, ""
    for part in location:
        child = node.child(part)
        if child is not None:
            node, path = child, child.path
        elif detail["type"] in ("missing", "anylb") and part == location[-1]:
            path += f".{part}"
        # Else it is no key but pydantic's name for it, such as the arm of a union.
    position = node.key_position if detail["type"] == "extra_forbidden" else node.position
    return f"{at(name, position)}: {path.lstrip('.') or 'file'}: {_reason(detail)}"


def _parts(field: str) -> list[str | int]:
    """Split a field as fields.fault gives it: `peers[0].as` into "peers", 0 and "as"."""
    return [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", field)]


def _reason(detail: ErrorDetails) -> str:
    value: Any = detail.get("input")
    limits = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is missing"
        case "greater_than":
            return f"{value} is not more than {limits['gt']}"
        case "int_type" | "float_type":
            return f"{value!r} is not a {'whole ' if detail['type'] == 'int_type' else ''}number"
        case "string_type":
            return f"{value!r} is not a string; put it in quotes"
        case "too_short":
            return "is empty; list at least one"
        case "anylb":
            return str(limits["message"])
        case "ip_v4_address" | "ip_v4_network":
            return f"'{value}' is not an IPv4 {detail['type'].removeprefix('ip_v4_')}"
        case "literal_error":
            return f"'{value}' is not {limits['expected']}"
        case _:
            return f"{detail['msg'][0].lower()}{detail['msg'][1:]}" + (
                f" (is '{value}')" if isinstance(value, str | int) else ""
            )
