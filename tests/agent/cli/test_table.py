# SPDX-License-Identifier: Apache-2.0
"""Tables: they fit the terminal by breaking between words, and are plain in a pipe."""

import pytest

from agent.cli.table import Table, elided, paint, print_line, wrapped

IPV6 = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"


def table() -> Table:
    made = Table("service", "VIP", "why", "never")
    made.add_row("web tcp", "192.0.2.10:443", "the server does not answer: connection refused, for 3 minutes now")
    made.add_row("dns udp", IPV6, "healthy")
    return made


@pytest.mark.parametrize("columns", [70, 80, 100, 200])
def test_a_table_fits_and_no_address_is_broken(columns: int) -> None:
    lines = table().lines(columns)
    assert max(map(len, lines)) <= columns
    assert sum(IPV6 in line for line in lines) == 1
    words = " ".join(" ".join(lines).split())
    for text in ("192.0.2.10:443", "connection refused,", "healthy"):
        assert text in words


def test_a_table_that_cannot_fit_breaks_no_word() -> None:
    lines = table().lines(20)
    assert any(IPV6 in line for line in lines)


@pytest.mark.parametrize(("columns", "name"), [(19, "shop-checkout-v2"), (18, "shop-ch…kout-v2"), (5, "shop-…ut-v2")])
def test_a_name_gives_way_where_nothing_else_can(columns: int, name: str) -> None:
    made = Table("n", "service", elide="service")
    made.add_row("1", "shop-checkout-v2")
    assert made.lines(columns)[1] == f"1  {name}"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("terminal")
def test_a_heading_at_a_terminal_is_not_elided_with_its_color() -> None:
    made = Table("service", "n", elide="service")
    made.add_row("shop-checkout-v2", "1")
    assert made.lines(14) == ["\x1b[1mservice\x1b[0m      \x1b[1mn\x1b[0m", "shop-…ut-v2  1"]


def test_an_elided_text_has_both_its_ends() -> None:
    assert [elided("abcdefgh", columns) for columns in (8, 7, 4)] == ["abcdefgh", "abc…fgh", "ab…h"]


def test_empty_columns_are_left_out() -> None:
    assert table().lines(200)[0].split() == ["service", "VIP", "why"]
    assert Table("a", "b").lines(80) == ["a  b"]


def test_in_a_pipe_a_row_is_one_plain_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table().print()
    print_line(paint("red", "long " * 60))
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4
    assert "\x1b" not in out


@pytest.mark.usefixtures("terminal")
def test_colors_do_not_count_and_end_with_their_line() -> None:
    assert wrapped(paint("red", "one two"), 7) == ["\x1b[31mone\x1b[0m \x1b[31mtwo\x1b[0m"]
    assert wrapped(paint("red", "one two"), 6) == ["\x1b[31mone\x1b[0m", "\x1b[31mtwo\x1b[0m"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colors_on_demand_or_where_the_terminal_has_none(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    assert paint("red", "one two") != "one two"
    monkeypatch.setenv(variable, value)
    assert paint("red", "one two") == "one two"


def test_later_lines_are_indented() -> None:
    assert wrapped("aa bb cc dd", 5, "  ") == ["aa bb", "  cc", "  dd"]
