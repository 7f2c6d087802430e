# SPDX-License-Identifier: Apache-2.0
"""lbctl in this process: most tests need its output and exit code only, and a start takes as long as 50 of them."""

import sys
from collections.abc import Callable

import pytest

from agent.cli.main import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Return a function that calls main() with its arguments, checks the exit code, and returns stdout and stderr."""

    def in_process(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["lbctl", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert (ended.value.code or 0) == code, out + err
        return out, err

    return in_process
