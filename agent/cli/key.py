# SPDX-License-Identifier: Apache-2.0
"""lbctl key: the key file of the members' channel (`members.key_file`). Needs no agent.

A rotation has three steps, and every node takes each before any takes the next: accept the new key, sign with it,
forget the old one. So no node ever signs with a key that another does not accept yet.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.options import config_option
from agent.errors import AgentError
from bgp.printable import escaped

KEY_BYTES = 16
COPY = "copy the file to every node, and run `lbctl agent reload` on each"
PROMOTE = "when all nodes have it, run here: lbctl key promote {}"
FORGET = "when all nodes have that, run here: lbctl key forget {}"


def _on_key_file(command: Callable[[Path], None]) -> Callable[..., Any]:
    """Give a command its FILE; without one it is cluster.key beside the node's configuration."""

    def with_default(path: Path, file: Path | None) -> None:
        command(path.parent / "cluster.key" if file is None else file)

    with_default.__doc__, with_default.__name__ = command.__doc__, command.__name__
    argument = click.argument("file", type=click.Path(path_type=Path), required=False)
    return argument(config_option(with_default))


@click.group()
def key() -> None:
    """The key of what nodes send each other.

    Two keys in the file: the first signs, both are accepted. FILE is cluster.key beside the configuration by default.
    """


@key.command()
@_on_key_file
def new(file: Path) -> None:
    """Make a key, in a file that does not exist yet."""
    from agent import private_file

    try:
        private_file.create(file, _text([secrets.token_bytes(KEY_BYTES)]))
    except FileExistsError:
        raise AgentError(
            f"{file}: exists already; `lbctl key rotate {shlex.quote(str(file))}` exchanges a key that is in use, "
            "otherwise remove the file"
        ) from None
    except OSError as error:
        raise _failure(file, error) from None
    _print(
        f"{file}: a new key, for root alone",
        "copy the file to the same place on every node",
        f"in lb.yml of every node: `members: {{key_file: {file.name}}}` (relative to lb.yml's folder)",
        "on every node: `lbctl agent reload`, or start it",
    )


@key.command()
@_on_key_file
def rotate(file: Path) -> None:
    """Begin a rotation: add a new key that is accepted."""
    keys = _read(file)
    if len(keys) == 2:
        raise AgentError(
            f"{file}: contains two keys, so a rotation has begun; `lbctl key promote` lets the second sign, "
            "`lbctl key forget` removes it"
        )
    _write(file, [*keys, secrets.token_bytes(KEY_BYTES)])
    name = shlex.quote(str(file))
    _print(
        f"{file}: a new second key is accepted, the first still signs",
        COPY, PROMOTE.format(name), COPY, FORGET.format(name), COPY,
    )  # fmt: skip


@key.command()
@_on_key_file
def promote(file: Path) -> None:
    """Let the second key sign, and still accept the first.

    Every node must have the second one before. Done twice, it is undone.
    """
    first, second = _both(file)
    _write(file, [second, first])
    name = shlex.quote(str(file))
    _print(f"{file}: the new first key signs, both are accepted", COPY, FORGET.format(name), COPY)


@key.command()
@_on_key_file
def forget(file: Path) -> None:
    """End a rotation: remove the second key.

    Every node must sign with the first one before.
    """
    first, _ = _both(file)
    _write(file, [first])
    _print(f"{file}: the first key is the only one", COPY)


def _both(file: Path) -> tuple[bytes, ...]:
    keys = _read(file)
    if len(keys) != 2:
        raise AgentError(f"{file}: contains one key; begin with `lbctl key rotate {shlex.quote(str(file))}`")
    return keys


def _read(file: Path) -> tuple[bytes, ...]:
    from agent.config.secret import read_channel_keys

    return read_channel_keys(file, "")


def _write(file: Path, keys: list[bytes]) -> None:
    from agent import private_file

    try:
        private_file.write(file.resolve(), _text(keys), sync=True)
    except OSError as error:
        raise _failure(file, error) from None


def _text(keys: list[bytes]) -> str:
    return "".join(f"{one.hex()}\n" for one in keys)


def _failure(file: Path, error: OSError) -> AgentError:
    step = {
        FileNotFoundError: f"; make its folder: mkdir -p {shlex.quote(str(file.parent))}",
        PermissionError: "; run this as root",
    }.get(type(error), "")
    return AgentError(f"{file}: {error.strerror}{step}")


def _print(done: str, *steps: str) -> None:
    """Print what was done, and what is left to do in its order."""
    click.echo(escaped(done))
    for number, step in enumerate(steps, 1):
        click.echo(escaped(f"  {number}. {step}"))
