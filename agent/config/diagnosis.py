# SPDX-License-Identifier: Apache-2.0
"""From pydantic's errors and YAML's positions to `file:line:column: field: what is wrong`.

Owns the text and the position of every error in lb.yml. Does not own what settings mean.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic_core import ErrorDetails

from agent.config.fields import Section, not_one_value
from agent.config.schema import Config
from bgp.printable import escaped
from topology.yaml_source import Position, SourceNode

_ONE_VALUE = {
    "string_type", "int_type", "float_type", "bool_type", "path_type", "literal_error", "ip_v4_address",
    "ip_v4_network", "ip_v6_address",
}  # fmt: skip
"""Pydantic's errors of fields that take one text or number."""
_RENAMED: dict[tuple[str | int, ...], str] = {("members", "probe_port"): "port"}
"""Keys of earlier releases that resemble their new name too little to be recognized."""
_PATTERNS = {
    "name": "give up to 63 of a-z, 0-9, - and _, a letter or a digit first",
    "user": "give up to 32 of A-Z, a-z, 0-9, - . and _, a letter, a digit or _ first",
}
"""What is possible, for the fields with a pattern."""
MAX_ERRORS = 50
_MAX_LINE = 400


def describe(root: SourceNode, name: str, details: Sequence[ErrorDetails]) -> list[str]:
    """Return one line for each error that pydantic found in the document below `root`, read from the file `name`."""
    # A list with a faulty entry is also "too short" to pydantic, which does not count the entry.
    real = [d for d in details if d["type"] != "too_short" or not any(_is_inside(other, d) for other in details)]
    lines = list(dict.fromkeys(_line(root, name, detail) for detail in real[:MAX_ERRORS]))
    more = len(real) - MAX_ERRORS
    return [*lines, f"{name}: {more} more errors"] if more > 0 else lines


def place(root: SourceNode, name: str, *path: str | int) -> str:
    """Return `file:line:column: field` of a setting; where the document leaves it out, the section's position."""
    node = _nearest(root, path)
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return f"{at(name, node.position)}: {field}"


def parts(field: str) -> list[str | int]:
    """Split a field as errors name it: `peers[0].as` into "peers", 0 and "as"."""
    return [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", field)]


def _nearest(root: SourceNode, path: Sequence[str | int]) -> SourceNode:
    node = root
    for part in path:
        found = node.child(part)
        if found is None:
            break
        node = found
    return node


def at(name: str, position: Position) -> str:
    """Return `file:line:column`."""
    return f"{name}:{position.line}:{position.column}"


def _is_inside(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    return len(inner["loc"]) > len(outer["loc"]) and inner["loc"][: len(outer["loc"])] == outer["loc"]


def _line(root: SourceNode, name: str, detail: ErrorDetails) -> str:
    """Return one error as `file:line:column: field: what is wrong`; a missing field's position is its section's."""
    limits = detail.get("ctx", {})
    location = [*detail["loc"], *parts(limits.get("field", ""))]
    node, path = root, ""
    for part in location:
        child = node.child(part) or node.child(str(part))
        if child is not None:
            node, path = child, child.path
        elif detail["type"] in ("missing", "anylb") and part == location[-1]:
            path += f".{part}"
        # Else it is no key but pydantic's name for it, such as the arm of a union.
    position = node.key_position if detail["type"] in ("extra_forbidden", "invalid_key") else node.position
    reason = _reason(detail)
    if limits.get("other"):
        reason += f"; see line {_nearest(root, [*detail['loc'], *parts(limits['other'])]).position.line}"
    line = escaped(f"{at(name, position)}: {path.lstrip('.') or 'file'}: {reason}")
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."


def _suggestion(location: Sequence[str | int]) -> str:
    """Return the known key that an unknown one resembles, as text to append."""
    if renamed := _RENAMED.get(tuple(location)):
        return f"; its name is {renamed} now"
    known: list[type[Section]] = [Config]
    for part in location[:-1]:
        fields = {key: field for model in known for key, field in _fields(model).items()}
        if part in fields:  # else it is an index, or the arm of a union
            known = list(_sections(fields[str(part)]))
    keys = [key for model in known for key in _fields(model)]
    close = difflib.get_close_matches(str(location[-1]), keys, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _fields(model: type[Section]) -> dict[str, Any]:
    """Return the annotation of each key of a section."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Yield the sections that an annotation names, as `tuple[PeerConfig, ...]` does."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _reason(detail: ErrorDetails) -> str:
    value: Any = detail.get("input")
    limits = detail.get("ctx", {})
    if detail["type"] in _ONE_VALUE and (why := not_one_value(value)):
        return why
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key{_suggestion(detail['loc'])}"
        case "missing":
            return "is missing"
        case "greater_than":
            return f"{value} is not more than {limits['gt']}"
        case "int_type" | "float_type":
            return f"{value!r} is not a {'whole ' if detail['type'] == 'int_type' else ''}number"
        case "string_type":
            return f"{value!r} is not a string; put it in quotes"
        case "string_pattern_mismatch":
            field = detail["loc"][-1]
            return f"'{value}' is no {field}; {_PATTERNS[str(field)]}"
        case "bool_type":
            return f"'{value}' is neither true nor false"
        case "tuple_type" if value is None:
            return "is empty; list at least one"
        case "tuple_type":
            return "is a mapping, not a list" if isinstance(value, dict) else f"is not a list; write [{value!r}]"
        case "model_type":
            return (
                "is a list, not a mapping" if isinstance(value, list) else "is not a mapping; write its keys and values"
            )
        case "invalid_key":
            return "unknown key"
        case "too_short":
            return "is empty; list at least one"
        case "too_long":
            return f"has more than {limits['max_length']} entries"
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
