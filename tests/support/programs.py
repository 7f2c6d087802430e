# SPDX-License-Identifier: Apache-2.0
"""Where tests keep compiled programs: one compilation serves all modules, workers and runs.

A program's name is a digest of its source and options, so a changed source is compiled. test_build.py alone always
compiles. `make clean` empties it: do so after an upgrade of python3-bpfcc.
"""

import sys
from pathlib import Path

PROGRAMS = Path(sys.prefix, "programs")
