# SPDX-License-Identifier: Apache-2.0
"""What every key of lb.yml means, read from the schema: the source of docs/settings.md and of lb.yml(5).

Owns the reading only: a key's meaning and example are the text below it in its section's class. Nothing reads that text
when the agent runs, since pydantic would take a third of the schema's start for it.
`python -m agent.config.reference > docs/settings.md` writes the page.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from agent.config.fields import Section, Within
from agent.config.schema import Config

_EXAMPLE = re.compile(r"\s*Example: `(.+)`\.$", re.S)


@dataclass(frozen=True)
class Key:
    """One key of a section of lb.yml."""

    name: str
    meaning: str
    values: str
    """What it takes in a few words, as `1-65535`."""
    default: str
    """As YAML; "" if the key is optional and absent means none, "required" if it must be given."""
    example: str
    """As YAML; "" for keys whose section shows it."""
    info: FieldInfo


@dataclass(frozen=True)
class SectionReference:
    """A section of lb.yml: where it is, as `services[].health`, and its keys in the schema's order.

    `variant` is the `type` of a section that has several, and names what only this type has.
    """

    path: str
    variant: str
    meaning: str
    keys: tuple[Key, ...]


def sections() -> Iterator[SectionReference]:
    """Yield every section of lb.yml, each before those inside it. `path` is "" for the whole file.

    A section that is like one before it has no keys here, and its meaning names that one.
    """
    yield from _section("", (Config,), {})


def _section(path: str, types: Sequence[type[Section]], shown: dict[type[Section], str]) -> Iterator[SectionReference]:
    """Yield the section at a path, once for each of its types; a type has the keys that those before it lack."""
    ancestors: set[type] = set()
    for section in types:
        if section in shown:
            yield SectionReference(path, "", f"The same keys as `{shown[section]}`.", ())
            continue
        shown[section] = path
        meanings = _meanings(section)
        shared = ancestors.intersection(section.__mro__)
        old = {name for one in shared for name in inspect.get_annotations(one)} - {"type"}
        keys = tuple(_key(name, info, meanings) for name, info in section.model_fields.items() if name not in old)
        kind = section.model_fields.get("type")
        variant = " or ".join(map(str, get_args(kind.annotation))) if kind and len(types) > 1 else ""
        yield SectionReference(path, variant, _first_paragraph(section), keys)
        ancestors |= {one for one in section.__mro__ if issubclass(one, Section) and one is not Section}
        for key in keys:
            below = f"{path}.{key.name}".lstrip(".") + ("[]" if _holds(key.info.annotation, tuple) else "")
            if inner := _sections_in((key.info.annotation, *key.info.metadata)):
                yield from _section(below, inner, shown)


def _key(name: str, info: FieldInfo, meanings: Mapping[str, str]) -> Key:
    text = " ".join(meanings.get(name, "").split())
    example = _EXAMPLE.search(text)
    default = "required" if info.is_required() else as_yaml(info.get_default())
    if isinstance(info.default, Section):
        default = ""
    values = ", ".join(dict.fromkeys(_values((info.annotation, *info.metadata))))
    return Key(info.alias or name, _EXAMPLE.sub("", text), values, default, example[1] if example else "", info)


def _meanings(section: type[Section]) -> dict[str, str]:
    """Return the text below each key in the section's class and the classes that it inherits from."""
    found: dict[str, str] = {}
    for one in reversed(section.__mro__):
        if issubclass(one, Section) and one is not Section:
            found |= _own_meanings(one)
    return found


@cache
def _own_meanings(section: type[Section]) -> dict[str, str]:
    return dict(_documented(_classes(section.__module__)[section.__name__]))


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Return a module's classes. `inspect.getsource` of each class would parse the whole module each time."""
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {one.name: one for one in body if isinstance(one, ast.ClassDef)}


def _documented(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for one, below in pairwise(body.body):
        match one, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text


def _first_paragraph(section: type[Section]) -> str:
    return " ".join(inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0].split())


def _sections_in(types: tuple[Any, ...]) -> list[type[Section]]:
    """Return the sections that a type is made of, in its order."""
    found: list[type[Section]] = []
    for one in types:
        if inspect.isclass(one) and issubclass(one, Section):
            found.append(one)
        else:
            found += _sections_in(get_args(one))
    return found


def _holds(annotation: Any, kind: type) -> bool:
    return get_origin(annotation) is kind or any(_holds(one, kind) for one in get_args(annotation))


def _values(types: tuple[Any, ...]) -> Iterator[str]:
    """Yield what a type takes: its literals and ranges."""
    for one in types:
        if get_origin(one) is Literal:
            yield from (f"`{value}`" for value in get_args(one))
        elif one is bool:
            yield from ("`true`", "`false`")
        elif isinstance(limits := getattr(one, "func", None), Within):
            yield f"{limits.low:g}-{limits.high:g}" if limits.high < 1_000_000 else f"{limits.low}-{limits.high}"
        else:
            yield from _values(get_args(one))


def as_yaml(value: object) -> str:
    """Return a default as lb.yml would have it, in flow style; "" for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and all(isinstance(one, tuple) for one in value):  # ranges of statuses
        return ", ".join(f"{low}-{high}" for low, high in value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Every key of `/etc/anylb/lb.yml`. [Configuration](configuration.md) shows how they belong together.",
        "",
        "<!-- Made by: python -m agent.config.reference > docs/settings.md -->",
    ]
    for section in sections():
        title = f"`{section.path}`" if section.path else "The file"
        lines += ["", f"## {title}" + (f", type {section.variant}" if section.variant else "")]
        lines += [""] if section.path else []
        if section.path:
            lines += textwrap.wrap(section.meaning, 120, break_on_hyphens=False)
        if section.keys:
            lines += ["", "| key | meaning | takes | default | example |", "|---|---|---|---|---|"]
        for key in section.keys:
            default = key.default if key.default in ("", "required") else f"`{key.default}`"
            cells = (f"`{key.name}`", key.meaning, key.values, default, f"`{key.example}`" if key.example else "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
