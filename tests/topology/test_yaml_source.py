# SPDX-License-Identifier: Apache-2.0
"""Positions, paths and duplicate keys of a YAML document, as lb.yml and lab files use them."""

import pytest

from topology.yaml_source import DocumentError, Position, YamlSyntaxError, ambiguous_numbers, compose, construct

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
        ("a: {b: 1, c: 2, b: 3}", "1:17: a.b: is given twice; see line 1"),
        ("a: 1\nb: 1\na: 2", "3:1: a: is given twice; see line 1"),
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


def aliases(levels: int, width: int, item: str = "[{}]") -> str:
    """Return levels of sequences, each of which repeats the one before `width` times."""
    lines = ["a0: &a0 x"]
    lines += [f"a{i}: &a{i} " + item.format(", ".join([f"*a{i - 1}"] * width)) for i in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize("item", ["[{}]", "{{b: [{}]}}", "{{<<: [{}]}}"])
def test_aliases_are_bounded_by_what_they_expand_to(item: str) -> None:
    with pytest.raises(DocumentError, match="has more than 100000 values, aliases expanded"):
        compose(aliases(9, 9, item))


def test_aliases_that_expand_to_little() -> None:
    root = compose(aliases(3, 3))
    assert root is not None
    value = construct(root)
    assert isinstance(value, dict)
    assert value["a2"] == [["x"] * 3] * 3


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("0443", "0443 is a number in base 8 (YAML 1.1); write 443, or put a text in quotes"),
        ("-017", "-017 is a number in base 8 (YAML 1.1); write 17, or put a text in quotes"),
        ("00", "00 is a number in base 8 (YAML 1.1); write 0, or put a text in quotes"),
        ("0b11", "0b11 is a number in base 2; write it in base 10"),
        ("22:22", "22:22 is a number in base 60 (YAML 1.1); put a text in quotes, as '22:22'"),
        ("1:30.5", "1:30.5 is a number in base 60 (YAML 1.1); put a text in quotes, as '1:30.5'"),
        ("1_000", "1_000 contains _; write 1000"),
        ("1_0.5", "1_0.5 contains _; write 10.5"),
        ("!!int '0443'", "0443 is a number in base 8 (YAML 1.1); write 443, or put a text in quotes"),
        (".inf", ".inf is not a finite number"),
        (".nan", ".nan is not a finite number"),
        ("1" * 5000, "1" * 30 + "... is too long for a number"),
    ],
)
def test_numbers_that_people_read_otherwise(number: str, problem: str) -> None:
    root = compose(f"a: [1, {number}]")
    assert root is not None
    found = [(error.path, error.position.column, error.problem) for error in ambiguous_numbers(root)]
    assert found == [("a[1]", 8, problem)]


def test_numbers_that_all_read_alike() -> None:
    root = compose("a: [0, 443, -5, +5, 0x1F, 1.5, .5, 1.0e+5, '0443', '22:22', 10.0.0.1, 0o17, 2024-01-02]")
    assert root is not None
    assert not list(ambiguous_numbers(root))


@pytest.mark.parametrize(
    ("value", "kind"),
    [("2024-13-45", "timestamp"), ("!!timestamp x", "timestamp"), ("!!bool x", "bool"), ("!!float x", "float")],
)
def test_texts_that_are_not_of_their_type(value: str, kind: str) -> None:
    root = compose(f"a: [{value}]")
    assert root is not None
    with pytest.raises(YamlSyntaxError, match=rf"^1:5: '.*' is not a valid {kind}; put a text in quotes$"):
        construct(root)
