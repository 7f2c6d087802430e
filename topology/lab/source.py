# SPDX-License-Identifier: Apache-2.0
"""A YAML text whose every value knows its file, line, column and path, with containerlab's variables expanded.

Owns: expansion, positions, the shape errors (not a string, unknown key, ...). Does not own: what a lab file means
(spec.py). Pure: text and variables in, values or LabError out.

Expansion happens on the text, before YAML is read, as in containerlab (it uses github.com/a8m/envsubst). Ours is
stricter in one point: a variable that is neither set nor has a default is an error there and not an empty string.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import yaml

from topology.errors import LabError

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?:(?P<operator>:?[-=+])(?P<word>[^}$]*))?\}|(?P<bad>\{[^}\n]*\}?))"
)


class Text:
    """A text after expansion that still finds the place in the original."""

    def __init__(self, file: str, original: str, variables: Mapping[str, str]) -> None:
        self.file = file
        self.original = original
        self._outs: list[int] = [0]  # segment starts in the expanded text ...
        self._ins: list[int] = [0]  # ... and in the original
        self.expanded = self._expand(variables)

    def fail(self, index: int, message: str) -> NoReturn:
        """Raise LabError at `index` of the original."""
        line = self.original.count("\n", 0, index) + 1
        column = index - (self.original.rfind("\n", 0, index) + 1) + 1
        raise LabError(f"{self.file}:{line}:{column}: {message}")

    def fail_expanded(self, index: int, message: str) -> NoReturn:
        """Raise LabError at `index` of the expanded text."""
        segment = bisect_right(self._outs, index) - 1
        start, end = self._ins[segment], [*self._ins, len(self.original)][segment + 1]
        self.fail(min(start + index - self._outs[segment], max(start, end - 1)), message)

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
    """One YAML node, with the path of keys to it and, in a mapping, its key."""

    text: Text
    node: yaml.Node
    path: str
    key: yaml.Node | None = None

    def fail(self, message: str) -> NoReturn:
        """Raise LabError at this value: `file:line:column: path: message`."""
        self.text.fail_expanded(self.node.start_mark.index, f"{self.path}: {message}" if self.path else message)

    def fail_at_key(self, message: str) -> NoReturn:
        """As `fail`, but at the key: the key itself is wrong, or the value is too long to point at."""
        Value(self.text, self.key or self.node, self.path).fail(message)

    @property
    def is_null(self) -> bool:
        """True for an empty value or `null`."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:null"

    def entries(self) -> dict[str, "Value"]:
        """The entries of a mapping (empty if the value is). A key given twice is an error."""
        if self.is_null:
            return {}
        if not isinstance(self.node, yaml.MappingNode):
            self.fail("must be a mapping (key: value)")
        found: dict[str, Value] = {}
        for key_node, value_node in self.node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fail("keys must be plain names")
            key = str(key_node.value)
            path = f"{self.path}.{key}" if self.path else key
            value = Value(self.text, value_node, path, key_node)
            if key in found:
                value.fail_at_key("is given twice")
            found[key] = value
        return found

    def known(self, keys: Sequence[str]) -> dict[str, "Value"]:
        """The entries of a mapping that may only have `keys`."""
        entries = self.entries()
        for key, value in entries.items():
            if key not in keys:
                value.fail_at_key(f"unsupported key; supported here: {', '.join(keys)}")
        return entries

    def items(self) -> list["Value"]:
        """The items of a sequence (empty if the value is)."""
        if self.is_null:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail("must be a list")
        return [Value(self.text, item, f"{self.path}[{i}]") for i, item in enumerate(self.node.value)]

    def scalar(self) -> str:
        """A scalar as it is written, whatever its YAML type."""
        if not isinstance(self.node, yaml.ScalarNode) or self.is_null:
            self.fail("must be a single value")
        return str(self.node.value)

    def string(self) -> str:
        """A non-empty string. `- a: b` is YAML for a mapping: such a line needs quotes."""
        if not isinstance(self.node, yaml.ScalarNode) or self.is_null or not self.node.value:
            self.fail("must be a string (put it in quotes)")
        return str(self.node.value)

    def integer(self, low: int, high: int) -> int:
        """A whole number in low..high."""
        written = self.node.value if isinstance(self.node, yaml.ScalarNode) else ""
        if self.node.tag != "tag:yaml.org,2002:int" or not re.fullmatch(r"\d+", written):
            self.fail("must be a whole number")
        number = int(written)
        if not low <= number <= high:
            self.fail(f"{number} is not in {low}–{high}")  # noqa: RUF001 - a range
        return number


def parse(file: str, original: str, variables: Mapping[str, str]) -> Value:
    """The top value of one YAML document. Raises LabError."""
    text = Text(file, original, variables)
    try:
        node = yaml.compose(text.expanded, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text.fail_expanded(mark.index if mark else 0, f"not YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        raise LabError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise LabError(f"{file}: is empty")
    return Value(text, node, "")
