# SPDX-License-Identifier: Apache-2.0
"""The cluster's secret: the key of the flow hash, from its file. I/O only."""

from __future__ import annotations

from pathlib import Path

from agent.errors import ConfigError


def read_secret(path: Path, where: str) -> bytes:
    """Read 16 bytes as hex digits from a file that must be for its owner alone. ConfigErrors begin with `where`."""
    try:
        text, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
        secret = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError(f"{where}: {path}: {error.strerror}; make one with `openssl rand -hex 16`") from None
    except ValueError:
        secret, mode = b"", 0
    if mode & 0o077:
        raise ConfigError(f"{where}: {path}: others may read it (mode {mode & 0o777:o}); chmod 600 {path}")
    if len(secret) != 16:
        raise ConfigError(f"{where}: {path}: holds not 32 hex digits; make one with `openssl rand -hex 16`")
    return secret
