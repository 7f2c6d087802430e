# SPDX-License-Identifier: Apache-2.0
"""Where tests keep compiled programs: one compilation serves all modules, workers and runs.

A program's name is a digest of its source and options, so a changed source is compiled. `make clean` empties it: do so
after an upgrade of python3-bpfcc. test_build.py, which is about the compiler, has a folder of its own.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(sys.prefix, "programs")


def without_warnings() -> Path:
    """Return the folder of what was compiled with warnings as errors, by this very compiler: ours, and Debian's."""
    packages = ["python3-bpfcc", "libbpfcc*", "libclang*", "libllvm*"]
    versions = subprocess.run(["dpkg-query", "-W", *packages], capture_output=True, check=False).stdout
    code = [path.read_bytes() for path in sorted(Path(__file__).parents[2].glob("bpf/compiler/*.py"))]
    return Path(sys.prefix, "programs-without-warnings", hashlib.sha256(b"".join([versions, *code])).hexdigest()[:12])
