# SPDX-License-Identifier: Apache-2.0
"""Secrets from their files: the keys of the flow hash and of the members' channel, and the passwords of BGP sessions.

I/O only. A file must belong to root, or to the user that runs this, and no other user may have access. No message
quotes its contents.
"""

from __future__ import annotations

import errno
import re
import shlex
from pathlib import Path

from agent import private_file
from agent.errors import ConfigError

MAX_PASSWORD_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN (linux/tcp.h)."""
_MAX_BYTES = 4096


def read_secret(path: Path, where: str) -> bytes:
    """Read 16 bytes in hex from a file. Raises ConfigError with a text that starts with `where`."""
    content = _read(path, where, "make one with `openssl rand -hex 16`")
    try:
        secret = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != 16:
        raise ConfigError(f"{where}: {path}: does not contain 32 hex digits; make one with `openssl rand -hex 16`")
    return secret


def read_channel_keys(path: Path, where: str) -> tuple[bytes, ...]:
    """Read one or two keys of the members' channel, one a line, of which the first signs.

    Raises ConfigError with a text that starts with `where`, or with the file's name if that is empty.
    """
    named = f"{where}: {path}" if where else str(path)
    new = f"`lbctl key new {shlex.quote(str(path))}`"
    content = _read(path, where, f"make one with {new}, or copy that of another node")
    advice = f"copy that of another node, or remove it and run {new}"
    lines = [line.strip() for line in content.splitlines()]
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(rb"[0-9A-Fa-f]{32}", line):
            raise ConfigError(f"{named}: line {number} is not a key of 32 hex digits; {advice}")
    if len(lines) not in (1, 2):
        raise ConfigError(f"{named}: contains {len(lines)} keys, not one or two; {advice}")
    keys = tuple(bytes.fromhex(line.decode("ascii")) for line in lines)
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{named}: contains the same key twice; remove one line")
    return keys


def read_password(path: Path, where: str) -> bytes:
    """Read a password, the only line of a file. Raises ConfigError with a text that starts with `where`."""
    password = _read(path, where, "put the router's password there").removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(password) <= MAX_PASSWORD_BYTES:
        raise ConfigError(f"{where}: {path}: contains {len(password)} bytes, not 1-{MAX_PASSWORD_BYTES}")
    if b"\n" in password or b"\0" in password:
        raise ConfigError(f"{where}: {path}: contains more than one line")
    return password


def _read(path: Path, where: str, advice: str) -> bytes:
    named = f"{where}: {path}" if where else str(path)
    try:
        content, status = private_file.read(path, _MAX_BYTES)
    except OSError as error:
        step = {errno.ENOENT: f"; {advice}", errno.EACCES: "; run this as root"}.get(error.errno or 0, "")
        raise ConfigError(f"{named}: {error.strerror}{step}") from None
    except ValueError:  # a NUL in the path
        raise ConfigError(f"{where}: {str(path)!a} cannot be a file name; {advice}") from None
    quoted = shlex.quote(str(path))
    if private_file.is_foreign(status):
        owner = private_file.user_name(status.st_uid)
        raise ConfigError(f"{named}: belongs to {owner}; chown root {quoted} && chmod 600 {quoted}")
    if status.st_mode & 0o077:
        mode = f"mode {status.st_mode & 0o777:o}"
        raise ConfigError(f"{named}: other users have access ({mode}); chmod 600 {quoted}")
    return content
