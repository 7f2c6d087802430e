# SPDX-License-Identifier: Apache-2.0
"""From lb.yml, and the secrets that it names, to a `Config`, or to all its errors.

Every error has file, line, column and field, as `lb.yml:12:13: cluster: 70000 is not in 1-65535`. Reads only these
files. The schema is schema.py's, the errors' positions and texts are diagnosis.py's.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from pydantic import ValidationError

from agent import private_file
from agent.config.diagnosis import MAX_ERRORS, at, describe, parts, place
from agent.config.epoch import supported_epochs
from agent.config.schema import Config
from agent.config.secret import read_channel_keys, read_password, read_secret
from agent.errors import ConfigError, SettingError
from bgp.printable import escaped
from topology.yaml_source import DocumentError, SourceNode, ambiguous_keys, ambiguous_numbers, compose, construct

MAX_BYTES = 1 << 20
"""Of lb.yml: 250 services with a long list of denied prefixes are an eighth of it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and the text of the file that it was read from."""

    path: Path
    text: str
    config: Config


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError, one line for each error; those between sections come last."""
    return load_text(path, read_text(path)).config


def load_text(path: Path, text: str) -> Loaded:
    """Check a file's text, and read the secrets that it names. Raises ConfigError as `load` does."""
    return Loaded(path, text, _with_secrets(path, *_read(text, str(path))))


def _with_secrets(path: Path, root: SourceNode, config: Config) -> Config:
    table = config.table
    secret = previous = None
    if table.key_file is not None:
        secret = read_secret(path.parent / table.key_file, place(root, str(path), "table", "key_file"))
    if table.previous is not None and table.previous.key_file is not None:
        where = place(root, str(path), "table", "previous", "key_file")
        previous = read_secret(path.parent / table.previous.key_file, where)
    members: tuple[bytes, ...] = ()
    if config.members.key_file is not None:
        where = place(root, str(path), "members", "key_file")
        members = read_channel_keys(path.parent / config.members.key_file, where)
        if not {secret, previous}.isdisjoint(members):
            raise ConfigError(f"{where}: has the key of the flow hash, which a rotation must not change; make another")
    config = config.with_secrets(secret, previous, members)
    if table.previous is None:
        return config
    numbers = [one.number for one in supported_epochs(config)]
    if numbers[0] == numbers[1]:
        where = place(root, str(path), "table", "previous")
        raise ConfigError(f"{where}: is the same as the current table; set what was different, or remove it")
    return config


def load_without_secrets(path: Path) -> Config:
    """Read and check a file, and none that it names. Raises ConfigError as `load` does."""
    return parse(read_text(path), str(path))


def locate(path: Path, error: SettingError) -> str:
    """Return an error of a setting of this file as `file:line:column: field: what is wrong`."""
    root = compose(read_text(path))
    assert root is not None  # it is what the configuration was read from
    return f"{place(root, str(path), *parts(error.field))}: {error.problem}"


def read_text(path: Path) -> str:
    """Return a file's text. Raises ConfigError."""
    try:
        content = private_file.read(path, MAX_BYTES)[0]
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {error.strerror}; write it as README.md shows") from None
    except PermissionError as error:
        step = (
            "run this as root" if os.geteuid() else f"chown root {shlex.quote(str(path))}"
        )  # a unit's root reads less
        raise ConfigError(f"{path}: {error.strerror}; {step}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte {content[error.start]:#04x}"
        raise ConfigError(f"{path}:{line}: {byte} is not UTF-8; save the file as UTF-8 in an editor") from None


def read_peer_passwords(path: Path, config: Config, text: str | None = None) -> dict[str, bytes]:
    """Return the MD5 passwords of the peers that have one, by `PeerConfig.name`. `text`: what `config` was read from,
    if the file may have changed since.

    Only the speaker needs them, so `load` does not read them. Raises ConfigError, which quotes nothing of a file.
    """
    found = {}
    for i, peer in enumerate(config.bgp.peers):
        if peer.password_file is not None:
            root = compose(read_text(path) if text is None else text)
            assert root is not None  # it is what `config` was read from
            where = place(root, str(path), "bgp", "peers", i, "password_file")
            found[peer.name] = read_password(path.parent / peer.password_file, where)
    return found


def parse(text: str, name: str) -> Config:
    """Check the text of a file called `name`. Raises ConfigError as `load` does. Pure."""
    return _read(text, name)[1]


def _read(text: str, name: str) -> tuple[SourceNode, Config]:
    try:
        root = compose(text)
        if root is None or root.is_null:
            raise ConfigError(f"{name}:1:1: is empty; write it as README.md shows")
        if ambiguous := list(islice(chain(ambiguous_keys(root), ambiguous_numbers(root)), MAX_ERRORS)):
            raise ConfigError("\n".join(_line(name, error) for error in ambiguous))
        data = construct(root)
    except DocumentError as error:
        raise ConfigError(_line(name, error)) from None
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "one value"
        raise ConfigError(f"{name}:1:1: is {kind}, not a mapping of settings; write it as README.md shows")
    try:
        json.dumps(data, ensure_ascii=False, skipkeys=True, default=str).encode()
    except UnicodeError as error:  # half of a surrogate pair, as "\ud83d": neither YAML's nor printable
        raise ConfigError(f"{name}:1:1: contains half a character: {str(error)!a}") from None
    try:
        return root, Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(root, name, error.errors(include_url=False)))) from None


def _line(name: str, error: DocumentError) -> str:
    field = f"{error.path}: " if error.path else ""
    return escaped(f"{at(name, error.position)}: {field}{error.problem}")
