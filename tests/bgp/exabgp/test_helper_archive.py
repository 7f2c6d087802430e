# SPDX-License-Identifier: Apache-2.0
"""The archives of ExaBGP's helpers, imported by an interpreter that sees nothing of the project."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bgp.exabgp.helper_archive import MODULES, bfd_archive, relay_archive


@pytest.mark.parametrize(("helper", "pack"), [("relay", relay_archive), ("bfd", bfd_archive)])
def test_archive_imports_only_its_modules_and_the_standard_library(
    helper: str, pack: Callable[[], bytes], tmp_path: Path
):
    archive = tmp_path / "helper.pyz"
    archive.write_bytes(pack())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); __import__('bgp.' + sys.argv[2] + '.process'); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'})); "
        "print(*sorted(name for name in sys.modules if name.startswith('bgp.')))"
    )
    argv = ["/usr/bin/python3", "-I", "-S", "-c", code, str(archive), helper]
    foreign, modules = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert foreign == "bgp"
    assert modules.split() == sorted(
        f"bgp/{name}".removesuffix("/__init__").replace("/", ".") for name in MODULES[helper] if name != "__init__"
    )
