# SPDX-License-Identifier: Apache-2.0
"""The manual pages lbctl(1) and lb.yml(5), and the shells' completion: made from the commands and the schema.

Owns the form only: what a page contains is what `--help` and docs/settings.md contain.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

from agent.cli.main import main
from agent.config import reference

COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/lbctl",
    "zsh": "usr/share/zsh/vendor-completions/_lbctl",
}
"""Where each shell looks for the completion of lbctl."""
_EXIT_CODES = """\
0 done; 1 refused or failed (one line gives the reason and the next step); 2 wrong usage; 3 no agent answers; 4 not in
time (--wait); 5 not permitted; 78 lb.yml has an error, so the agent does not start."""


def lbctl_page() -> str:
    """Return lbctl(1) in roff: every command with its options."""
    lines = [*_head("LBCTL", 1), "lbctl \\- inspect and operate anylb", ".SH SYNOPSIS"]
    lines += [".B lbctl", ".I COMMAND", "[OPTIONS] [ARGUMENTS]", ".SH DESCRIPTION", _text(main.help or "")]
    lines += [".SH COMMANDS"]
    for words, command in commands():
        with click.Context(command, info_name=" ".join(words)) as context:
            usage = " ".join(command.collect_usage_pieces(context))
            lines += [".SS " + _text(f"{' '.join(words)} {usage}"), *_paragraphs(command.help or "")]
            for name, text in _options(command, context):
                lines += [".TP", ".B " + _text(name), _text(text or "")]
    lines += [".SH EXIT STATUS", _text(_EXIT_CODES), ".SH FILES"]
    lines += [".TP", ".B /etc/anylb/lb.yml", "The configuration: lb.yml(5).", ".TP", ".B /run/anylb/agent.sock"]
    lines += ["The agent's control socket.", ".SH SEE ALSO", "lb.yml(5), systemctl(1); /usr/share/doc/anylb"]
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """Return lb.yml(5) in roff: every key with its meaning, what it takes, default and example."""
    lines = [*_head("LB.YML", 5), "lb.yml \\- configuration of anylb, the same on every server", ".SH SYNOPSIS"]
    lines += [".B /etc/anylb/lb.yml", ".SH DESCRIPTION", "A YAML file. lbctl config check reports its errors."]
    for section in reference.sections():
        title = section.path or "the file"
        lines += [".SH " + _text(title) + (f", type {section.variant}" if section.variant else "")]
        lines += [_text(section.meaning)] if section.path else []
        for key in section.keys:
            default = key.default if key.default in ("", "required") else f"default {key.default}"
            facts = "; ".join(filter(None, (key.values, default, key.example and f"for example {key.example}")))
            lines += [".TP", ".B " + _text(key.name), _text(key.meaning + (f" ({facts})" if facts else ""))]
    lines += [".SH SEE ALSO", "lbctl(1)"]
    return "\n".join(lines) + "\n"


def completion(shell: str) -> str:
    """Return the script that completes lbctl in a shell: it asks lbctl itself, which knows its commands."""
    made = get_completion_class(shell)
    assert made is not None
    script = made(main, {}, "lbctl", "_LBCTL_COMPLETE")
    return script.source_template % script.source_vars()


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command that does something, with its words, in the order of `--help`."""
    yield from _below(("lbctl",), main)


def _below(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    with click.Context(command) as context:
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            if one is not None and not one.hidden:
                yield from _below((*words, name), one)


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for one in command.get_params(context):
        if isinstance(one, click.Option) and not one.hidden and (record := one.get_help_record(context)):
            yield record


def _head(title: str, section: int) -> list[str]:
    return [f'.TH {title} {section} "" anylb anylb', ".nh", ".ad l", ".SH NAME"]


def _paragraphs(text: str) -> Iterator[str]:
    for number, one in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        yield from ([".PP"] if number else [])
        yield _text(one)


def _text(text: str) -> str:
    """Return a text as one line that roff leaves as it is."""
    line = " ".join(text.replace("\b", "").replace("`", "").split())
    line = line.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    line = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in line)
    return f"\\&{line}" if line.startswith((".", "\\(aq")) else line
