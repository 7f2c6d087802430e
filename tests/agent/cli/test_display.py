# SPDX-License-Identifier: Apache-2.0
"""Texts of operators and of the network are printed literally, never as rich's markup."""

import pytest

from agent.cli.display import print_denied


@pytest.mark.parametrize("text", ["see [/var/log]", "[/42]", "swap [disk]", "[fd00::1]:443", "[red]no[/]"])
def test_brackets_are_printed_literally(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": text, "configured": True}]})
    assert text in capsys.readouterr().out


def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": "\x1b[2J\x9b", "configured": True}]})
    assert r"\x1b[2J\x9b" in capsys.readouterr().out
