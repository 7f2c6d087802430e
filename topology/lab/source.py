# SPDX-License-Identifier: Apache-2.0
"""A lab file as values that know their file, line, column and path, with containerlab's variables expanded.

Owns: expansion, positions in the text before it, shape errors (not a string, unknown key, ...). Does not own: YAML
(topology/yaml_source.py), what a lab file means (spec.py). Pure: text and variables in, values or LabError out.

Expansion happens on the text, before YAML is read, as in containerlab (it uses github.com/a8m/envsubst). Ours is
stricter in one point: a variable that is neither set nor has a default is an error here, not an empty string.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import yaml

from topology.errors import LabError
from topology.yaml_source import DocumentError, Position, SourceNode, YamlSyntaxError, compose

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?[-=+])(?P<word>[^}$]*))?\}|(?P<bad>\{[^}\n]*\}?))"
)


class Text:
    """A text after expansion that maps its positions back to the original."""

    def __init__(self, file: str, original: str, variables: Mapping[str, str]) -> None:
        self._warnings: dict[int, str] = {}
        self.file = file
        self.original = original
        self._outs: list[int] = [0]  # segment starts in the expanded text ...
        self._ins: list[int] = [0]  # ... and in the original
        self.expanded = self._expand(variables)

    def fail(self, index: int, message: str) -> NoReturn:
        """Raise LabError at `index` of the original."""
        raise LabError(f"{self._at(index)}: {message}")

    def fail_expanded(self, index: int, message: str) -> NoReturn:
        """Raise LabError at `index` of the expanded text."""
        raise LabError(f"{self.at_expanded(index)}: {message}")

    def warn_expanded(self, index: int, message: str) -> None:
        """Keep a warning about `index` of the expanded text; a second one there replaces it."""
        self._warnings[index] = f"{self.at_expanded(index)}: {message}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, in the order of the text."""
        return tuple(text for _, text in sorted(self._warnings.items()))

    def at_expanded(self, index: int) -> str:
        """Return `file:line:column` of `index` of the expanded text."""
        segment = bisect_right(self._outs, index) - 1
        start, end = self._ins[segment], [*self._ins, len(self.original)][segment + 1]
        return self._at(min(start + index - self._outs[segment], max(start, end - 1)))

    def _at(self, index: int) -> str:
        line = self.original.count("\n", 0, index) + 1
        column = index - (self.original.rfind("\n", 0, index) + 1) + 1
        return f"{self.file}:{line}:{column}"

    def _expand(self, variables: Mapping[str, str]) -> str:
        template = self.original.find("{{")
        if template >= 0:
            self.fail(template, "'{{': Go templates are not supported; use ${VARIABLE}")
        out: list[str] = []
        length = end = 0
        for match in _VARIABLE.finditer(self.original):
            before = self.original[end : match.start()]
            value = self._value(match, variables)
            self._outs += [length + len(before), length + len(before) + len(value)]
            self._ins += [match.start(), match.end()]
            out += [before, value]
            length, end = length + len(before) + len(value), match.end()
        return "".join([*out, self.original[end:]])

    def _value(self, match: re.Match[str], variables: Mapping[str, str]) -> str:
        if match["dollar"]:
            return "$"
        if match["bad"]:
            self.fail(match.start(), f"${match['bad']}: not a variable; write ${{NAME}} or ${{NAME:=default}}")
        name, operator, word = match["bare"] or match["name"], match["operator"] or "", match["word"] or ""
        value = variables.get(name)
        present = value is not None and (value != "" or not operator.startswith(":"))
        if operator.endswith("+"):
            return word if present else ""
        if value is not None and present:
            return value
        if not operator:
            self.fail(match.start(), f"${name} is not set: set it, or write ${{{name}:=default}} (a plain $ is $$)")
        return word


@dataclass(frozen=True)
class Value:
    """One value of a lab file, with its path of keys and, in a mapping, its key."""

    text: Text
    source: SourceNode

    @property
    def path(self) -> str:
        """The keys and indexes down to this value, as `topology.nodes.b1`."""
        return self.source.path

    def fail(self, message: str) -> NoReturn:
        """Raise LabError at this value: `file:line:column: path: message`."""
        self._fail(self.source.position, message)

    def fail_at_key(self, message: str) -> NoReturn:
        """As `fail`, but at the key: the key itself is wrong, or the value is too long to point at."""
        self._fail(self.source.key_position, message)

    def _fail(self, position: Position, message: str) -> NoReturn:
        self.text.fail_expanded(position.index, f"{self.path}: {message}" if self.path else message)

    @property
    def is_null(self) -> bool:
        """True for an empty value or `null`."""
        return self.source.is_null

    def entries(self) -> dict[str, "Value"]:
        """Return the entries of a mapping (empty if the value is)."""
        if self.is_null:
            return {}
        entries = self.source.entries()
        if entries is None:
            self.fail("must be a mapping (key: value)")
        return {key: Value(self.text, source) for key, source in entries.items()}

    @property
    def place(self) -> str:
        """The place of the value's key: `file:line:column: path`."""
        return f"{self.text.at_expanded(self.source.key_position.index)}: {self.path}"

    def known(self, keys: Sequence[str], ignored: Sequence[str] = ()) -> dict[str, "Value"]:
        """Return the entries of a mapping that may only have `keys`, and `ignored` ones, which become warnings."""
        found = {}
        for key, value in self.entries().items():
            if key in ignored:
                self.text.warn_expanded(value.source.key_position.index, f"{value.path}: has no effect here")
            elif key in keys:
                found[key] = value
            else:
                value.fail_at_key(f"unsupported key; supported here: {', '.join(keys)}")
        return found

    def items(self) -> list["Value"]:
        """Return the items of a sequence (empty if the value is)."""
        if self.is_null:
            return []
        items = self.source.items()
        if items is None:
            self.fail("must be a list")
        return [Value(self.text, source) for source in items]

    def scalar(self) -> str:
        """Return a scalar as it is written, whatever its YAML type."""
        node = self.source.node
        if not isinstance(node, yaml.ScalarNode) or self.is_null:
            self.fail("must be a single value")
        return str(node.value)

    def string(self) -> str:
        """Return a non-empty string. `- a: b` is YAML for a mapping: such a line needs quotes."""
        node = self.source.node
        if not isinstance(node, yaml.ScalarNode) or self.is_null or not node.value:
            self.fail("must be a string (put it in quotes)")
        return str(node.value)

    def integer(self, low: int, high: int) -> int:
        """Return a whole number in low..high."""
        node = self.source.node
        written = node.value if isinstance(node, yaml.ScalarNode) else ""
        if node.tag != "tag:yaml.org,2002:int" or not re.fullmatch(r"\d+", written):
            self.fail("must be a whole number")
        number = int(written)
        if not low <= number <= high:
            self.fail(f"{number} is not in {low}–{high}")  # noqa: RUF001 - a range
        return number


def parse(file: str, original: str, variables: Mapping[str, str]) -> Value:
    """Return the top value of one YAML document. Raises LabError."""
    text = Text(file, original, variables)
    try:
        root = compose(text.expanded)
    except YamlSyntaxError as error:
        text.fail_expanded(error.position.index, f"not YAML: {error.problem}")
    except DocumentError as error:
        problem = f"{error.path}: {error.problem}" if error.path else error.problem
        text.fail_expanded(error.position.index, problem)
    if root is None:
        raise LabError(f"{file}: is empty")
    return Value(text, root)
