# SPDX-License-Identifier: Apache-2.0
"""What ran before, and until when a change waits for its confirmation; the line about lb.yml."""

import pytest

from agent.change.difference import Change
from agent.change.file_state import Found, Refusal, line
from agent.change.history import (
    MAX_BYTES,
    MAX_PREVIOUS,
    History,
    awaiting,
    confirmed,
    encode,
    gone_back,
    parse,
    started,
)

NOW = 1_000_000.0


def ran(*texts: str) -> History:
    history = History()
    for text in texts:
        history = started(history, text)
    return history


def test_what_ran_is_remembered_the_last_first() -> None:
    assert ran("a", "b", "b", "c") == History("c", ("b", "a"))


def test_text_that_means_the_same_is_no_step() -> None:
    assert started(ran("a", "b"), "b # comment", same=True) == History("b # comment", ("a",))


def test_history_is_bounded() -> None:
    assert len(ran(*map(str, range(50))).previous) == MAX_PREVIOUS
    large = ran(*(f"{i}" * (MAX_BYTES // 2 - 1) for i in range(5)))
    assert len(large.previous) == 2


def test_undo_may_be_repeated() -> None:
    history = ran("a", "b", "c")
    once = gone_back(history, history.previous[0])
    assert once == History("b", ("a",))
    assert gone_back(once, once.previous[0]) == History("a")
    assert started(once, "b") == once, "the agent that runs it adds nothing"


def test_a_change_that_is_not_confirmed_leaves_no_trace() -> None:
    before = ran("a", "b")
    applied = started(awaiting(before, "b", NOW, 300), "c")
    assert applied.pending is not None
    assert gone_back(applied, applied.pending.previous) == before
    assert confirmed(applied) == History("c", ("b", "a"))


@pytest.mark.parametrize(
    ("at", "left"), [(NOW, 300), (NOW + 100, 200), (NOW + 301, 0), (NOW + 1e6, 0), (NOW - 5e6, 300)]
)
def test_time_left_whatever_the_clock_does(at: float, left: float) -> None:
    pending = awaiting(ran("a"), "a", NOW, 300).pending
    assert pending is not None
    assert pending.remaining_s(at) == left


@pytest.mark.parametrize("history", [History(), ran("a", "ü\n"), awaiting(ran("a"), "a", NOW, 300)])
def test_file_has_all_of_it(history: History) -> None:
    assert parse(encode(history).encode()) == history


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"running": 1, "previous": [], "pending": null}',
        '{"running": "a", "previous": [2], "pending": null}',
        '{"running": "a", "previous": [], "pending": {"until": 1e400, "timeout_s": 5, "previous": "a"}}',
        '{"running": "a", "previous": [], "pending": {"until": 5, "timeout_s": 5, "previous": 7}}',
        '{"running": "a", "previous": 5, "pending": null}',
    ],
)  # fmt: skip
def test_damaged_file_is_an_error(content: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(content.encode())


DIFFERENT = (Change("changed", "cluster", 1, 2),)
OF_NODE = Refusal("new", "eth9 does not exist")
OF_FILE = Refusal("new", "lb.yml:1:1: no", in_file=True)


@pytest.mark.parametrize(
    ("found", "refusal", "expected"),
    [
        (Found("same"), None, None),
        (Found("new", changes=DIFFERENT), None, "differs from what runs by 1 change: see `lbctl config diff`"),
        (
            Found("new", "lb.yml:1:1: no\nlb.yml:2:2: no"),
            None,
            "would be refused, and the previous configuration runs: lb.yml:1:1: no (and 1 more",
        ),
        (Found(None, "lb.yml: No such file"), None, "the previous configuration runs: lb.yml: No such file"),
        (Found("new", "lb.yml:1:1: no"), OF_FILE, "was refused, and the previous configuration runs: lb.yml:1:1: no"),
        (Found("new", changes=DIFFERENT), OF_NODE, "was refused, and the previous configuration runs: eth9"),
        (Found("newer", changes=DIFFERENT), OF_NODE, "differs from what runs"),
        (Found("same"), OF_NODE, None),
        (Found("new"), OF_FILE, None),  # a key file was mended
    ],
)
def test_line_about_the_file(found: Found, refusal: Refusal | None, expected: str | None) -> None:
    text = line("lb.yml", found, refusal)
    assert text is None if expected is None else expected in (text or "")
