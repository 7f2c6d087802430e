# SPDX-License-Identifier: Apache-2.0
"""Every `lbctl` command and option that the documents show exists, and docs/commands.md has all commands."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agent.cli.main import main

ROOT = Path(__file__).parents[3]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {ROOT / "CHANGELOG.md"})
"""All but the history, which names commands that are gone."""
SPAN = re.compile(r"`(?:\S*/)?lbctl ([^`]*)`|^(?:# |\S*/)?lbctl (.*)$", re.M)


def shown(page: Path) -> Iterator[str]:
    """Yield what follows `lbctl` in spans of code, and at the beginnings of lines in blocks of it."""
    for match in SPAN.finditer(page.read_text(encoding="utf-8")):
        yield " ".join((match[1] or match[2]).split())


def leaf(tokens: list[str]) -> tuple[list[str], list[click.Command]]:
    """Follow words through the groups of commands, to one or several. Raises KeyError for one that is not there."""
    command: click.Command = main
    found: list[click.Command] = [main]
    path: list[str] = []
    for token in tokens:
        if not isinstance(command, click.Group) or token.startswith(("-", "[", "#", "|", ">", "&")):
            break
        context = click.Context(command)
        names = token.replace("\\|", "|").split("|")  # `drain|undrain` stands for both
        found = [one for name in names if (one := command.get_command(context, name.strip(",;.")))]
        if len(found) < len(names):
            raise KeyError(token)
        command = found[0]
        path.append(token)
    return path, found


def check(text: str) -> None:
    """Raise KeyError for a command or an option that is not there."""
    text = re.split(r" (?:&&|\||>|#) ?", text.replace("\\|", "|") if " | " not in text else text)[0]
    tokens = [token for token in re.sub(r"[\[\]]", " ", text).split() if token]
    path, commands = leaf(tokens)
    if path == ["lab", "exec"]:  # FILE, NODE, and a command with options of its own
        if tokens[4:5] == ["lbctl"]:
            check(" ".join(tokens[5:]))
        return
    of_each = [{name for one in command.params for name in (*one.opts, *one.secondary_opts)} for command in commands]
    options = set.intersection(*of_each) | {"--help", "-h", "--version"}
    for token in tokens[len(path) :]:
        name = token.split("=")[0].strip(",;.")
        if re.fullmatch(r"--?[a-z][a-z-]*", name) and name not in options:
            raise KeyError(f"{' '.join(path)} {name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_exist(page: Path) -> None:
    for text in shown(page):
        try:
            check(text)
        except KeyError as error:
            pytest.fail(f"`lbctl {text}`: there is no {error.args[0]}")


def every_command(group: click.Group, path: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path}{name} ")
        elif not command.hidden:
            yield f"{path}{name}"


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8").replace("\\|", "|")
    spans = re.findall(r"`([^`]+)`", text)
    documented = set[str]()
    for span in spans:
        words = span.removeprefix("lbctl ").split()
        for first in words[0].split("|") if words else []:
            documented.add(first)
            if len(words) > 1:
                documented |= {f"{first} {second}" for second in words[1].split("|")}
    missing = [one for one in every_command(main) if one not in documented]
    assert missing == []


@pytest.mark.parametrize(
    "text",
    [
        "drained",
        "drain --waiting",
        "session lists",
        "backend drain --until-below 3",
        "backend list|drain --service web",
        "lab exec x.clab.yml b1 lbctl status --waiting",
    ],
)
def test_a_wrong_command_is_found(text: str) -> None:
    with pytest.raises(KeyError):
        check(text)
