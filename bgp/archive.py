# SPDX-License-Identifier: Apache-2.0
"""Packs each helper of ExaBGP into one file that any user can run: the BGP user may not be able to read the project."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_COMMON = ("__init__", "errors", "journal", "bfd_file", "watched")
_WORDS = ("route", "change", "allow", "snapshot", "community", "dialect")
MODULES = {
    "relay": (*_COMMON, *_WORDS, "peercred", "intake", "floor", "session", "relay"),
    "bfd_process": (*_COMMON, "bfd_packet", "bfd", "bfd_socket", "bfd_process"),
}
"""Of this package, by helper; they import each other and the standard library, nothing else (tests see to it)."""

_MAIN = "import sys\n\nfrom bgp.{helper} import main\n\nsys.exit(main())\n"


def relay_archive() -> bytes:
    """Return the relay as a zip application (PEP 441): `python3 -I -S FILE --socket PATH --agent-uid UID`."""
    return _archive("relay")


def bfd_archive() -> bytes:
    """Return the BFD process likewise: `python3 -I -S FILE --run-dir PATH`."""
    return _archive("bfd_process")


def _archive(helper: str) -> bytes:
    here = Path(__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", _MAIN.format(helper=helper))
        for module in MODULES[helper]:
            archive.write(here / f"{module}.py", f"bgp/{module}.py")
    return buffer.getvalue()
