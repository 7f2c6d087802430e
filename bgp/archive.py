# SPDX-License-Identifier: Apache-2.0
"""Packs the relay into one file that any user can run: the project may lie where the BGP user cannot read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

MODULES = ("__init__", "errors", "peercred", "route", "snapshot", "dialect", "intake", "session", "relay")
"""Of this package; they import each other and the standard library, nothing else (a test holds them to it)."""

_MAIN = "import sys\n\nfrom bgp.relay import main\n\nsys.exit(main())\n"


def relay_archive() -> bytes:
    """Return a zip application (PEP 441): `python3 -I -S FILE --socket PATH --agent-uid UID`."""
    here = Path(__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", _MAIN)
        for module in MODULES:
            archive.write(here / f"{module}.py", f"bgp/{module}.py")
    return buffer.getvalue()
