# SPDX-License-Identifier: Apache-2.0
"""`make lint`: the linters, all at once; prints what the failed ones print and exits with 1."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LINTERS = {
    "mypy": ["mypy"],  # the longest first
    "lint-imports": ["lint-imports"],
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "clang-format": ["clang-format", "--dry-run", "--Werror"],
    "codespell": ["codespell", "-D", "-", "-D", "tests/plain_words.txt"],  # spelling, and plain words
}
FIX = {
    "ruff check": "maybe: .venv/bin/ruff check --fix",
    "ruff format": "run: .venv/bin/ruff format",
    "clang-format": "run: .venv/bin/clang-format -i bpf/src/*.[ch] tests/bench/*.c",
}


def c_sources() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.c", "*.h"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if (ROOT / name).exists()]


def run(name: str) -> tuple[bool, str]:
    """Return whether one linter is content, and its report."""
    program, *arguments = LINTERS[name]
    if name == "clang-format":
        arguments += c_sources()
    start = time.monotonic()
    done = subprocess.run([BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    report = f"{name}: {'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - start:.1f} s)"
    if done.returncode:
        report += f"\n{done.stdout}{done.stderr}{FIX.get(name, '')}"
    return done.returncode == 0, report


def main() -> int:
    content = True
    with ThreadPoolExecutor(len(LINTERS)) as pool:
        for ok, report in pool.map(run, LINTERS):
            print(report, flush=True)
            content = content and ok
    return 0 if content else 1


if __name__ == "__main__":
    sys.exit(main())
