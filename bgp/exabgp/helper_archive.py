# SPDX-License-Identifier: Apache-2.0
"""Packs each helper of ExaBGP into one file that any user can run: the BGP user may not be able to read the project."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_COMMON = ("__init__", "errors", "helper_log", "file_watch", "bfd/__init__", "bfd/files")
_RELAY = ("process", "reconciler", "adj_rib_in", "quorum", "diff", "allowlist", "protocol")
MODULES = {
    "relay": (
        *_COMMON, "route", "community", "peercred", "exabgp/__init__", "exabgp/messages",
        "relay/__init__", *(f"relay/{name}" for name in _RELAY),
    ),
    "bfd": (*_COMMON, *(f"bfd/{name}" for name in ("packet", "session", "sockets", "process"))),
}  # fmt: skip
"""Of this package, by helper; they import each other and the standard library, nothing else (tests see to it)."""

_MAIN = "import sys\n\nfrom bgp.{helper}.process import main\n\nsys.exit(main())\n"


def relay_archive() -> bytes:
    """Return the relay as a zip application (PEP 441): `python3 -I -S FILE --socket PATH --agent-uid UID`."""
    return _archive("relay")


def bfd_archive() -> bytes:
    """Return the BFD process likewise: `python3 -I -S FILE --run-dir PATH`."""
    return _archive("bfd")


def _archive(helper: str) -> bytes:
    package = Path(__file__).parents[1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", _MAIN.format(helper=helper))
        for module in MODULES[helper]:
            archive.write(package / f"{module}.py", f"bgp/{module}.py")
    return buffer.getvalue()
