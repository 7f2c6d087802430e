# SPDX-License-Identifier: Apache-2.0
"""`make bench`: measures, prints tables, writes bench.json. Run as `PYTHONPATH=tests python -m bench`.

Each part is a process of its own, since each needs other namespaces; its figures are kept if a later one fails.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from rich.console import Console

COMMITTED = Path(__file__).with_name("bench.json")
#: Part of bench.json → the module that measures it, and how many rounds.
PARTS = {
    "xdp": 15, "nat": 7, "frames": 7, "system": 5, "table": 7, "daemon": 5, "scale": 5, "drain": 20, "connections": 7,
    "sessions": 7, "hand_over": 5, "scrape": 3,
}  # fmt: skip


def machine() -> dict[str, str | int]:
    """Return the CPU and kernel that the figures are measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cpus": os.cpu_count() or 0,
        "kernel": platform.release(),
    }


def measure(part: str, rounds: int) -> Any:
    """Run a part in its process and return its figures; None if it failed, with its reason on standard error."""
    command = [sys.executable, "-m", f"bench.{part}", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the selected parts; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure speed and memory.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="measure this part only; may be repeated")
    parser.add_argument("--rounds", type=int, help="rounds of each part (default: each part's own)")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where to write the figures")
    options = parser.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    figures: dict[str, Any] = {"machine": machine()}
    failed = []
    for part, rounds in PARTS.items():
        if part not in (options.only or PARTS):
            continue
        console.print(f"measuring: {part}")
        found = measure(part, options.rounds or rounds)
        if found is None:
            failed.append(part)
        else:
            figures[part] = found
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
    report.show(console, figures, committed)
    console.print(f"\n{options.json} has the figures; tests/bench/{COMMITTED.name} has the last committed ones")
    if failed:
        console.print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
