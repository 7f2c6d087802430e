# SPDX-License-Identifier: Apache-2.0
"""Positions, paths and duplicate keys of a YAML document, as lb.yml and lab files use them."""

import pytest

from topology.yaml_source import DocumentError, Position, YamlSyntaxError, compose, construct

TEXT = """\
a:
  - b: 1
    c:
  - [x, y]
"""


def test_values_know_position_and_path() -> None:
    root = compose(TEXT)
    assert root is not None
    items = root.child("a")
    assert items is not None
    first, second = items.items() or []
    assert (first.path, first.position) == ("a[0]", Position(7, 2, 5))
    c = first.child("c")
    assert c is not None
    assert (c.path, c.is_null, c.key_position) == ("a[0].c", True, Position(16, 3, 5))
    assert [item.path for item in second.items() or []] == ["a[1][0]", "a[1][1]"]
    assert (first.child("d"), first.child(0), second.child(2), second.child(-1), second.child("x")) == (None,) * 5
    assert (first.items(), second.entries()) == (None, None)
    assert construct(root) == {"a": [{"b": 1, "c": None}, ["x", "y"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {b: 1, c: 2, b: 3}", "1:17: a.b: is given twice"),
        ("a: 1\nb: 1\na: 2", "3:1: a: is given twice"),
        ("- {? [x] : 1}", "1:6: [0]: a sequence cannot be a key; write a name"),
        ("&a [*a]", "1:1: is nested too deeply"),
    ],
)
def test_rejected_documents(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        compose(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t", "--- 1\n--- 2", "a: \x00", "*a"])
def test_texts_that_are_not_yaml(text: str) -> None:
    with pytest.raises(YamlSyntaxError):
        compose(text)


def test_empty_documents() -> None:
    assert compose("") is None
    assert compose("# nothing\n") is None
