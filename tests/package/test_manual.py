# SPDX-License-Identifier: Apache-2.0
"""The manual pages hold every command, option and key, and no reader of roff stumbles over them."""

import re
import shutil
import subprocess

import click
import pytest

from agent.config import reference
from package.manual import COMPLETIONS, commands, completion, configuration_page, lbctl_page

PAGES = {"lbctl.1": lbctl_page, "lb.yml.5": configuration_page}


def plain(page: str) -> str:
    """Return a page as its reader sees it, without fonts and line breaks."""
    page = re.sub(r"\\\[u([0-9A-F]+)\]", lambda m: chr(int(m[1], 16)), page)
    return " ".join(re.sub(r"\\([-e])|\\&", lambda m: {"-": "-", "e": "\\"}.get(m[1] or "", ""), page).split())


def test_lbctl_page_has_every_command_with_every_option() -> None:
    page, found = plain(lbctl_page()), dict(commands())
    assert len(found) > 30
    for words, command in found.items():
        assert f".SS {' '.join(words)} " in page, words
        section = page.partition(f".SS {' '.join(words)} ")[2].partition(".SS ")[0]
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(name in section for name in option.opts), (words, option.opts)
                assert " ".join((option.help or "").replace("`", "").split())[:40] in section.replace("\\(aq", "'")


def test_configuration_page_has_every_key_with_its_meaning() -> None:
    page = plain(configuration_page()).replace("\\(aq", "'")
    keys = [key for section in reference.sections() for key in section.keys]
    assert len(keys) > 80
    for key in keys:
        assert f".TP .B {key.name} " in page, key.name
        assert key.meaning.replace("`", "") in page, key.name


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff, which Debian's man-db brings")
@pytest.mark.parametrize("name", PAGES)
def test_roff_is_clean(name: str) -> None:
    argv = ["groff", "-man", "-Tutf8", "-ww"]
    done = subprocess.run(argv, input=PAGES[name](), capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize("name", PAGES)
def test_no_line_is_taken_for_a_request(name: str) -> None:
    known = {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".nh", ".ad"}
    assert {line.split()[0] for line in PAGES[name]().splitlines() if line.startswith((".", "'"))} <= known


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_completion_asks_lbctl(shell: str) -> None:
    assert f"_LBCTL_COMPLETE={shell}_complete" in completion(shell)
