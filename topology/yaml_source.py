# SPDX-License-Identifier: Apache-2.0
"""A YAML document whose every value knows its position and its path; lab files and lb.yml are both read with it.

Owns: composing a text, duplicate keys and keys that are not scalars, positions. Does not own: what values mean, nor the
wording around an error (its reader prefixes the file's name). Pure, and cheap to import: PyYAML only.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

_NULL = "tag:yaml.org,2002:null"


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
        return {
            str(key.value): SourceNode(value, f"{self.path}.{key.value}" if self.path else str(key.value), key)
            for key, value in self.node.value
        }

    def items(self) -> list[SourceNode] | None:
        """Return the values of a sequence; None if this is not a sequence."""
        if not isinstance(self.node, yaml.SequenceNode):
            return None
        return [SourceNode(value, f"{self.path}[{i}]") for i, value in enumerate(self.node.value)]

    def child(self, part: str | int) -> SourceNode | None:
        """Return the value below a key or an index; None if there is none."""
        if isinstance(part, str):
            return (self.entries() or {}).get(part)
        items = self.items() or []
        return items[part] if 0 <= part < len(items) else None


def compose(text: str) -> SourceNode | None:
    """Return the top value of one YAML document, None if it is empty. Raises DocumentError.

    PyYAML uses the last of two equal keys without a warning; here a duplicate key is an error at its second place.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        root = SourceNode(node)
        _check_keys(root)
    except yaml.YAMLError as error:
        raise _syntax_error(error) from None
    except RecursionError:  # or an alias inside its own anchor
        raise DocumentError(Position(), "", "is nested too deeply") from None
    return root


def construct(root: SourceNode) -> object:
    """Return the document as plain Python values. Raises DocumentError, also for unknown tags and impossible dates."""
    loader = yaml.SafeLoader("")
    try:
        value: object = loader.construct_document(root.node)
        return value
    except yaml.YAMLError as error:
        raise _syntax_error(error) from None
    except ValueError as error:  # 2024-13-45
        raise DocumentError(Position(), "", str(error)) from None
    finally:
        loader.dispose()


def _syntax_error(error: yaml.YAMLError) -> YamlSyntaxError:
    if isinstance(error, yaml.MarkedYAMLError):
        problem = error.problem or error.context or "cannot be read"
        return YamlSyntaxError(Position.of(error.problem_mark or error.context_mark), "", problem)
    return YamlSyntaxError(Position(), "", " ".join(str(error).split()))


def _check_keys(source: SourceNode) -> None:
    if isinstance(source.node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in source.node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise DocumentError(
                    Position.of(key.start_mark), source.path, f"a {key.id} cannot be a key; write a name"
                )
            if key.value in seen:
                path = f"{source.path}.{key.value}" if source.path else str(key.value)
                raise DocumentError(Position.of(key.start_mark), path, "is given twice")
            seen.add(str(key.value))
    children = source.entries()
    for child in source.items() or [] if children is None else children.values():
        _check_keys(child)
