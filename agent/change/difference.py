# SPDX-License-Identifier: Apache-2.0
"""What differs between two configurations, as a set of changes in the terms of the schema. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.change.effective import LIST_KEYS, effective, entry_name
from agent.config.schema import Config

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_SECRET_FIELDS = ("members.key_file", "table.key_file", "table.previous.key_file")


@dataclass(frozen=True, slots=True)
class Change:
    """One setting, entry or section: `path` as `services[web].weight`, its value before and after."""

    kind: Literal["added", "removed", "changed"]
    path: str
    before: Any = None
    after: Any = None

    @property
    def text(self) -> str:
        """The change in one line, as `~ services[web].weight: 100 → 50`."""
        if self.kind == "changed":
            return f"~ {self.path}: {_short(self.before)} → {_short(self.after)}"
        return f"{_SIGNS[self.kind]} {self.path}: {_short(self.after if self.kind == 'added' else self.before)}"


def differences(
    old: Config,
    new: Config,
    old_passwords: Mapping[str, str] | None = None,
    new_passwords: Mapping[str, str] | None = None,
) -> tuple[Change, ...]:
    """Return what differs, in the file's order. Passwords are digests by peer; of secrets only that they differ."""
    before, after = effective(old), effective(new)
    changes = _mappings("", "", before, after)
    named = {change.path for change in changes}
    secrets = (
        (old.channel_keys, new.channel_keys),
        (old.hash_key, new.hash_key),
        (old.previous_key, new.previous_key),
    )
    for path, (was, now) in zip(_SECRET_FIELDS, secrets, strict=True):
        section = path.partition(".")[0]
        if was != now and _at(before, path) and not any(name.startswith((section, "cluster")) for name in named):
            changes.append(Change("changed", path, "its content", "another content"))
    for peer, digest in (new_passwords or {}).items():
        if (old_passwords or {}).get(peer, digest) != digest:
            changes.append(Change("changed", f"bgp.peers[{peer}].password_file", "its content", "another content"))
    return tuple(changes)


def _at(plain: Mapping[str, Any], path: str) -> Any:
    found: Any = plain
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _values(path: str, generic: str, before: Any, after: Any) -> list[Change]:
    if before == after:
        return []
    if before is None:
        return [Change("added", path, None, after)]
    if after is None:
        return [Change("removed", path, before)]
    if isinstance(before, dict) and isinstance(after, dict):
        return _mappings(path, generic, before, after)
    if isinstance(before, list) and isinstance(after, list):
        if generic in LIST_KEYS:
            return _entries(path, generic, before, after)
        added, removed = _missing(after, before), _missing(before, after)
        if added or removed:
            gone = [Change("removed", path, one) for one in removed]
            return gone + [Change("added", path, None, one) for one in added]
    return [Change("changed", path, before, after)]


def _missing(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Return the values that are not among the others. As texts: `deny` may have 60,000, and lists have no hash."""
    known = set(map(json.dumps, others))
    return [one for one in values if json.dumps(one) not in known]


def _mappings(path: str, generic: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    changes = []
    for key in dict.fromkeys([*after, *before]):
        here, kind = f"{path}.{key}".lstrip("."), f"{generic}.{key}".lstrip(".")
        changes += _values(here, kind, before.get(key), after.get(key))
    return changes


def _entries(path: str, generic: str, before: Sequence[Any], after: Sequence[Any]) -> list[Change]:
    """Return what differs between two lists of sections, whose order means nothing."""
    old, new = ({entry_name(generic, entry): entry for entry in entries} for entries in (before, after))
    changes = []
    for name in dict.fromkeys([*new, *old]):
        changes += _values(f"{path}[{name}]", generic, old.get(name), new.get(name))
    return changes


def _short(value: Any) -> str:
    """Return a value for one line, as YAML writes it in flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
