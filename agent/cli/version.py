# SPDX-License-Identifier: Apache-2.0
"""lbctl version: the release, its build, and what it runs on. Needs no agent."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from agent.cli.options import output_option, show
from agent.table.epoch import TABLE_VERSIONS

ROOT = Path(__file__).parents[2]
PARTS = ("exabgp", "pyroute2", "pydantic", "numpy")


@click.command()
@output_option
def version(output: str) -> None:
    """Show the release, its build, the kernel and parts."""
    result = {
        "version": release("anylb"),
        "build": build(ROOT),
        "tables": list(TABLE_VERSIONS),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "parts": {name: release(name) for name in PARTS} | {"bcc": _bcc()},
    }
    show(result, output, _print)


def _print(result: dict[str, Any]) -> None:
    parts = ", ".join(f"{name} {number}" for name, number in result["parts"].items())
    click.echo(f"anylb {result['version']} ({result['build']}), table versions {', '.join(map(str, result['tables']))}")
    click.echo(f"Linux {result['kernel']}, Python {result['python']}; {parts}")


def release(name: str) -> str:
    """Return the installed version of a package, "none" without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def build(root: Path) -> str:
    """Return the commit of a clone, with "modified" if files differ from it; elsewhere a digest of the sources."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=10", "--dirty=, modified"]
    if (root / ".git").exists():
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
            if done.returncode == 0:
                return f"commit {done.stdout.strip()}"
        except (OSError, subprocess.TimeoutExpired):
            pass
    total = hashlib.sha256()
    for folder in ("agent", "bgp", "bpf"):
        for path in sorted((root / folder).rglob("*.[pch]*")):
            if path.suffix in (".py", ".c", ".h"):
                total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return f"sources {total.hexdigest()[:10]}"


def _bcc() -> str:
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", "python3-bpfcc"], capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout or "none"
