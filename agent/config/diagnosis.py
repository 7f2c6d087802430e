# SPDX-License-Identifier: Apache-2.0
"""From pydantic's findings and YAML's marks to `file:line:column: field: what is wrong`.

Owns the wording and the place of every fault in lb.yml. It knows nothing of what the settings mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from agent.errors import ConfigError


def describe(root: yaml.Node, name: str, details: Sequence[ErrorDetails]) -> list[str]:
    """One line for each fault that pydantic found in the document below `root`, read from the file `name`."""
    # A list with a faulty entry is also "too short" to pydantic, which does not count the entry.
    real = [d for d in details if d["type"] != "too_short" or not any(_below(other, d) for other in details)]
    return list(dict.fromkeys(_line(root, name, detail) for detail in real))


def place(root: yaml.Node, name: str, *path: str | int) -> str:
    """`file:line:column: field` of a setting that is there."""
    node, mark = root, root.start_mark
    for part in path:
        node, mark = _child(node, part) or (node, mark)
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{name}:{mark.line + 1}:{mark.column + 1}: {field}"


def _below(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    return len(inner["loc"]) > len(outer["loc"]) and inner["loc"][: len(outer["loc"])] == outer["loc"]


def reject_duplicates(node: yaml.Node, name: str) -> None:
    """YAML takes the last of two equal keys in silence; here that is an error."""
    children: Sequence[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"{name}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{where}: a {key.id} cannot be a key; write a word")
            if key.value in seen:
                raise ConfigError(f"{where}: {key.value}: is given twice")
            seen.add(str(key.value))
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        reject_duplicates(child, name)


def _line(root: yaml.Node, name: str, detail: ErrorDetails) -> str:
    """One fault as `file:line:column: field: what is wrong`."""
    location: list[int | str] = list(detail["loc"])
    if field := detail.get("ctx", {}).get("field"):
        location += [
            int(part) if part.isdigit() else part for part in field.replace("[", ".").replace("]", "").split(".")
        ]
    node, mark, path = root, root.start_mark, ""
    for part in location:
        found = _child(node, part)
        if found is None and not (detail["type"] in ("missing", "anylb") and part == location[-1]):
            continue  # pydantic's own words in the path, such as the arm of a union
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        if found is not None:
            node, mark = found[0], found[1]
    if detail["type"] == "extra_forbidden" and isinstance(root, yaml.MappingNode):
        mark = _key_mark(root, location) or mark
    return f"{name}:{mark.line + 1}:{mark.column + 1}: {path.lstrip('.') or 'file'}: {_reason(detail)}"


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node, yaml.Mark] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part or (key.value, part) == ("as", "asn"):
                return value, value.start_mark
    return None


def _key_mark(node: yaml.Node, location: Sequence[int | str]) -> yaml.Mark | None:
    """Where the last key of a path itself stands, for an unknown key: its value may be lines below."""
    for part in location[:-1]:
        found = _child(node, part)
        if found is None:
            return None
        node = found[0]
    keys = (
        [key for key, _ in node.value if key.value == str(location[-1])] if isinstance(node, yaml.MappingNode) else []
    )
    return keys[0].start_mark if keys else None


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
