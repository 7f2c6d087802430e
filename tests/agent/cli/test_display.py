# SPDX-License-Identifier: Apache-2.0
"""What an operator, or the network, has written is printed as it stands: never as rich's markup."""

import pytest

from agent.cli.display import print_denied


@pytest.mark.parametrize("text", ["see [/var/log]", "[/42]", "swap [disk]", "[fd00::1]:443", "[red]no[/]"])
def test_brackets_are_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_denied({"denied": [{"prefix": text, "configured": True}]})
    assert text in capsys.readouterr().out
