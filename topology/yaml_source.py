# SPDX-License-Identifier: Apache-2.0
"""A YAML document whose every value knows its position and its path; lab files and lb.yml are both read with it.

Owns: composing a text, its size with aliases expanded, duplicate keys and keys that are not scalars, numbers that YAML
1.1 reads otherwise than people, positions. Does not own: what values mean, nor the wording around an error (its reader
prefixes the file's name). Pure, and cheap to import: PyYAML only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_VALUES = 100_000
"""The values of a document, each alias counted as what it repeats: nine levels of nine aliases would be 400 million."""

_NULL = "tag:yaml.org,2002:null"
_BOOL = "tag:yaml.org,2002:bool"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,29}|0x[0-9a-fA-F]{1,24}|[0-9]*\.[0-9]*(?:[eE][-+][0-9]+)?)")
"""Numbers that every reader understands alike. Their length is bounded: Python converts no longer ones to text."""

_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_PLAINER = {
    "but found another document": "another document begins here; a file has one",
    "found character '\\t' that cannot start any token": "a tab cannot be here; use spaces",
}
"""Problems as PyYAML has them, and what is clearer."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the text: characters from its start, and line and column as editors count them, from 1."""

    index: int = 0
    line: int = 1
    column: int = 1

    @staticmethod
    def of(mark: yaml.Mark | None) -> Position:
        """Return the position of a mark of PyYAML; the start of the text without one."""
        return Position(mark.index, mark.line + 1, mark.column + 1) if mark else Position()

    @staticmethod
    def in_text(text: str, index: int) -> Position:
        """Return the position of a character of a text."""
        before = _LINE_END.split(text[:index])
        return Position(index, len(before), len(before[-1]) + 1)


class DocumentError(Exception):
    """A document that cannot be used: `position`, `path` of keys ("" at the top) and what is wrong."""

    def __init__(self, position: Position, path: str, problem: str) -> None:
        super().__init__(f"{position.line}:{position.column}: {path}{': ' if path else ''}{problem}")
        self.position = position
        self.path = path
        self.problem = problem


class YamlSyntaxError(DocumentError):
    """A text that is not YAML."""


@dataclass(frozen=True, slots=True)
class SourceNode:
    """One value of a document, its path as `services[0].port`, and its key if it is a mapping's."""

    node: yaml.Node
    path: str = ""
    key: yaml.Node | None = None

    @property
    def position(self) -> Position:
        """Where the value starts."""
        return Position.of(self.node.start_mark)

    @property
    def key_position(self) -> Position:
        """Where the value's key starts; the value itself where it has none."""
        return Position.of((self.key or self.node).start_mark)

    @property
    def is_null(self) -> bool:
        """True for an empty value or `null`."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == _NULL

    def entries(self) -> dict[str, SourceNode] | None:
        """Return the values of a mapping by key; None if this is not a mapping."""
        if not isinstance(self.node, yaml.MappingNode):
            return None
        return {str(key.value): self._entry(key, value) for key, value in self.node.value}

    def items(self) -> list[SourceNode] | None:
        """Return the values of a sequence; None if this is not a sequence."""
        if not isinstance(self.node, yaml.SequenceNode):
            return None
        return [self._item(i, value) for i, value in enumerate(self.node.value)]

    def child(self, part: str | int) -> SourceNode | None:
        """Return the value below a key or an index; None if there is none."""
        if isinstance(part, str) and isinstance(self.node, yaml.MappingNode):
            found = next(((key, value) for key, value in self.node.value if key.value == part), None)
            return None if found is None else self._entry(*found)
        if isinstance(part, int) and isinstance(self.node, yaml.SequenceNode) and 0 <= part < len(self.node.value):
            return self._item(part, self.node.value[part])
        return None

    def _entry(self, key: yaml.Node, value: yaml.Node) -> SourceNode:
        return SourceNode(value, f"{self.path}.{key.value}" if self.path else str(key.value), key)

    def _item(self, index: int, value: yaml.Node) -> SourceNode:
        return SourceNode(value, f"{self.path}[{index}]")


def compose(text: str) -> SourceNode | None:
    """Return the top value of one YAML document, None if it is empty. Raises DocumentError.

    PyYAML uses the last of two equal keys without a warning; here a duplicate key is an error at its second place.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        root = SourceNode(node)
        _count_values(node, {})  # before anything visits them
        _check_keys(root)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text) from None
    except RecursionError:  # or an alias inside its own anchor
        raise DocumentError(Position(), "", "is nested too deeply") from None
    return root


def ambiguous_numbers(source: SourceNode) -> Iterator[DocumentError]:
    """Yield an error for each number that YAML 1.1 reads in base 8, 2 or 60, or with `_` left out.

    People, and readers of YAML 1.2, take `0443` for 443 and `22:22` for a text. Numbers without end are errors too.
    """
    node = source.node
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and not _PLAIN_NUMBER.fullmatch(node.value):
            yield DocumentError(source.position, source.path, _why_ambiguous(node.value))
        return
    children = source.entries()
    for child in source.items() or [] if children is None else children.values():
        yield from ambiguous_numbers(child)


def _why_ambiguous(text: str) -> str:
    digits = text.lstrip("+-")
    if "inf" in text.lower() or "nan" in text.lower():
        return f"{text} is not a finite number"
    if len(text) > 30:
        return f"{text[:30]}... is too long for a number"
    if ":" in digits:
        return f"{text} is a number in base 60 (YAML 1.1); put a text in quotes, as '{text}'"
    if "_" in digits:
        return f"{text} contains _; write {text.replace('_', '')}"
    if digits.startswith("0b"):
        return f"{text} is a number in base 2; write it in base 10"
    return f"{text} is a number in base 8 (YAML 1.1); write {digits.lstrip('0') or '0'}, or put a text in quotes"


def construct(root: SourceNode) -> object:
    """Return the document as plain Python values. Raises DocumentError, also for unknown tags and impossible dates."""
    loader = _Loader("")
    try:
        value: object = loader.construct_document(root.node)
        return value
    except yaml.YAMLError as error:
        raise _syntax_error(error) from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's constructor, which fails in many ways where a text is not of the type that its tag names."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node. Raises YAMLError at the node's position."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            shown = f"'{node.value[:30]}'" if isinstance(node, yaml.ScalarNode) else "this"
            problem = f"{shown} is not a valid {kind}; put a text in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def ambiguous_keys(source: SourceNode) -> Iterator[DocumentError]:
    """Yield an error for each key that YAML 1.1 reads as true, false or no value: `on`, `yes`, `~`."""
    for child in source.items() or (source.entries() or {}).values():
        if child.key is not None and child.key.tag in (_NULL, _BOOL):
            kind = "no value" if child.key.tag == _NULL else "true or false"
            yield DocumentError(
                child.key_position, child.path, f"is read as {kind} (YAML 1.1), not as a key; remove it"
            )
        yield from ambiguous_keys(child)


def _syntax_error(error: yaml.YAMLError, text: str = "") -> YamlSyntaxError:
    if isinstance(error, yaml.MarkedYAMLError):
        problem = error.problem or error.context or "cannot be read"
        mark = error.problem_mark or error.context_mark
        return YamlSyntaxError(Position.of(mark), "", _PLAINER.get(problem, problem))
    if isinstance(error, yaml.reader.ReaderError):
        problem = f"the character {chr(int(error.character))!a} cannot be in a text; remove it"
        return YamlSyntaxError(Position.in_text(text, int(error.position)), "", problem)
    return YamlSyntaxError(Position(), "", " ".join(str(error).split()))


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Return how many values a node has with all aliases expanded. Raises DocumentError where they are too many."""
    known = counted.get(id(node))
    if known is not None:
        return known
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [one for pair in node.value for one in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    count = 1 + sum(_count_values(child, counted) for child in children)
    if count > MAX_VALUES:
        raise DocumentError(Position.of(node.start_mark), "", f"has more than {MAX_VALUES} values, aliases expanded")
    counted[id(node)] = count
    return count


def _check_keys(source: SourceNode) -> None:
    if isinstance(source.node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, _ in source.node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise DocumentError(
                    Position.of(key.start_mark), source.path, f"a {key.id} cannot be a key; write a name"
                )
            if key.value in seen:
                path = f"{source.path}.{key.value}" if source.path else str(key.value)
                raise DocumentError(Position.of(key.start_mark), path, f"is given twice; see line {seen[key.value]}")
            seen[str(key.value)] = Position.of(key.start_mark).line
    children = source.entries()
    for child in source.items() or [] if children is None else children.values():
        _check_keys(child)
