# SPDX-License-Identifier: Apache-2.0
"""The archives of ExaBGP's helpers: one file each that any user can run, because the BGP user may not read the
project."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_COMMON = ("__init__", "errors", "file_watch", "helper_log", "printable", "bfd/__init__", "bfd/status")
_RELAY = (
    *("process", "agent_connection", "report", "protocol"),
    *("reconciler", "export", "allowlist", "deadman", "quorum", "diff", "adj_rib_in", "adj_rib_out", "rib"),
)
MODULES = {
    "relay": (
        *(*_COMMON, "route", "community", "peercred", "sd_notify"),
        *("exabgp/__init__", "exabgp/messages", "exabgp/down_reason", "relay/__init__"),
        *(f"relay/{name}" for name in _RELAY),
    ),
    "bfd": (*_COMMON, *(f"bfd/{name}" for name in ("config", "packet", "session", "udp", "neighbor", "process"))),
}
"""The modules of this package in each archive; they import each other and the standard library only, as a test
checks."""

_MAIN = "import sys\n\nfrom bgp.{helper}.process import main\n\nsys.exit(main())\n"


def relay_archive() -> bytes:
    """Return the relay as a zip application (PEP 441): `python3 -I -S FILE --socket PATH --agent-uid UID --allow
    PATH`."""
    return _archive("relay")


def bfd_archive() -> bytes:
    """Return the BFD process as a zip application: `python3 -I -S FILE --run-dir PATH`."""
    return _archive("bfd")


def _archive(helper: str) -> bytes:
    package = Path(__file__).parents[1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", _MAIN.format(helper=helper))
        for module in MODULES[helper]:
            archive.write(package / f"{module}.py", f"bgp/{module}.py")
    return buffer.getvalue()
