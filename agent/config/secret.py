# SPDX-License-Identifier: Apache-2.0
"""Secrets from their files: the cluster's key of the flow hash, and the passwords of BGP sessions. I/O only.

Only its owner may have access to a file, and no message quotes its contents.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import ConfigError

MAX_PASSWORD_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN (linux/tcp.h)."""


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


def read_password(path: Path, where: str) -> bytes:
    """Read a password, the only line of a file. Raises ConfigError with a text that starts with `where`."""
    password = _read(path, where, "put the router's password there").removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(password) <= MAX_PASSWORD_BYTES:
        raise ConfigError(f"{where}: {path}: contains {len(password)} bytes, not 1-{MAX_PASSWORD_BYTES}")
    if b"\n" in password or b"\0" in password:
        raise ConfigError(f"{where}: {path}: contains more than one line")
    return password


def _read(path: Path, where: str, advice: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(4096)
    except OSError as error:
        raise ConfigError(f"{where}: {path}: {error.strerror}; {advice}") from None
    except ValueError:  # a NUL in the path
        raise ConfigError(f"{where}: {str(path)!a} cannot be a file name; {advice}") from None
    if mode & 0o077:
        raise ConfigError(f"{where}: {path}: other users have access (mode {mode & 0o777:o}); chmod 600 {path}")
    return content
