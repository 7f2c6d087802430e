# SPDX-License-Identifier: Apache-2.0
"""Compiles lb.c and clamp.c with BCC, in a short-lived child of its own: LLVM's ~120 MB must not stay in a daemon.

`build_all()` is the parent's side. The child (`python -m bpf.compile`) joins our headers into one text, compiles and
loads it against maps that are pinned already, pins the program, does the same for the next, and exits. Its stdout is
one line of JSON: `{"errors": [MESSAGE or null for each program]}`; a RULE on its stderr ends what is said of each.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Final

from bpf import mapspec
from bpf.errors import BpfError

_HERE: Final = Path(__file__).resolve().parent
_HEADERS: Final = _HERE / "kheaders"
_INCLUDE: Final = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)
_TIMEOUT_S: Final = 60
_RULE: Final = "----"


def source(main: str = "lb.c") -> str:
    """Return lb.c, or clamp.c, with our own headers put in where they are included.

    BCC rewrites map lookups only in the main text, so a header with a lookup would compile to a program that does
    not load. `#line` keeps file and line of compile errors right.
    """

    def joined(name: str) -> str:
        text = (_HERE / name).read_text()

        def put_in(match: re.Match[str]) -> str:
            after = text.count("\n", 0, match.end()) + 2
            return f'{joined(match[1])}\n#line {after} "{name}"'

        return f'#line 1 "{name}"\n' + _INCLUDE.sub(put_in, text)

    return joined(main) + "\n" + mapspec.assertions()


@dataclass(frozen=True)
class Options:
    """What the XDP program is compiled for: rows of each service, its place among the uplinks, what it can do."""

    rows: int
    uplink: int = 0
    ipv6: bool = True

    main: ClassVar[str] = "lb.c"
    kind: ClassVar[str] = "XDP"

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        values = {"ROWS": self.rows, "UPLINK": self.uplink, "IPV6": int(self.ipv6)}
        return [f"-D{name}={value}" for name, value in values.items()]


@dataclass(frozen=True)
class ClampOptions:
    """The tc egress program has none."""

    main: ClassVar[str] = "clamp.c"
    kind: ClassVar[str] = "tc"

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        return []


AnyOptions = Options | ClampOptions


def digest(options: AnyOptions) -> str:
    """Name the program that `build` would make: another one for any change of source, headers or options."""
    content = hashlib.sha256(f"{source(options.main)} {options.defines()}".encode())
    for header in sorted(_HEADERS.rglob("*.h")):
        content.update(header.read_bytes())
    return content.hexdigest()[:12]


def build(maps: Path, program: Path, options: AnyOptions, warnings_are_errors: bool = False) -> None:
    """Compile and load one program as `build_all` does. Raises BpfError with the first thing that is wrong."""
    for error in build_all(maps, {program: options}, warnings_are_errors).values():
        raise error


def build_all(
    maps: Path, programs: Mapping[Path, AnyOptions], warnings_are_errors: bool = False
) -> dict[Path, BpfError]:
    """Compile and load programs against the maps pinned in `maps`, pin each at its path; return what went wrong.

    The kernel shows them as `lb_` or `clamp_` and the digest, cut to 15 characters. Warnings are errors for the tests
    only: another clang than ours may find some in BCC's own headers. Raises BpfError if the child itself fails.
    """
    warnings = ["-Wall", "-Werror"] if warnings_are_errors else []
    jobs = [
        {
            "program": str(path),
            "main": options.main,
            "kind": options.kind,
            "name": f"{Path(options.main).stem}_{digest(options)}"[:15],
            "flags": [f"-DPINS={json.dumps(str(maps))}", *options.defines(), *warnings],
        }
        for path, options in programs.items()
    ]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bpf.compile", json.dumps(jobs)],
            cwd=_HERE.parent,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BpfError(f"the BPF compiler did not end within {_TIMEOUT_S} s") from None
    try:
        errors = json.loads(child.stdout.splitlines()[-1])["errors"]
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        raise BpfError(f"the BPF compiler died (exit {child.returncode}): {last}") from None
    said = zip_longest(errors, child.stderr.split(f"{_RULE}\n")[: len(jobs)], fillvalue="")
    return {
        path: BpfError(f"{error}{_first_error(about)}")
        for path, (error, about) in zip(programs, said, strict=True)
        if error
    }


def _first_error(stderr: str) -> str:
    """What clang or the verifier said, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror:", line)]
    if errors:
        return f": {errors[0]}"
    verifier = [line for line in lines if not line.startswith(("processed ", "HINT:"))]
    return f": {'; '.join(verifier[-2:])}" if verifier else ""


def _child(jobs: list[dict[str, Any]]) -> list[str | None]:
    """Make the programs; what is wrong with each. Runs in the child only: importing bcc loads LLVM."""
    os.environ["BCC_KERNEL_SOURCE"] = str(_HEADERS)
    try:
        import bcc  # noqa: F401 - told here once if it is missing
    except ImportError as error:
        return [
            f"BCC is missing ({error}): apt install python3-bpfcc, and make the virtual environment with "
            "/usr/bin/python3 -m venv --system-site-packages"
        ] * len(jobs)
    errors = []
    for job in jobs:
        errors.append(_make(job))
        print(_RULE, file=sys.stderr, flush=True)
    return errors


def _make(job: dict[str, Any]) -> str | None:
    """Compile, load and pin one program; what is wrong."""
    from bcc import BPF

    from bpf import kernel

    # BPF() raises a bare Exception for whatever goes wrong; what it was stands on stderr.
    try:
        module = BPF(text=source(job["main"]), cflags=[f"-DPROGRAM={job['name']}", *job["flags"]])
    except Exception:
        return f"the {job['kind']} program does not compile"
    try:
        fd = kernel.load_program(job["kind"], job["name"], module.dump_func(job["name"].encode()))
        kernel.pin(fd, Path(job["program"]))
    except BpfError as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps({"errors": _child(json.loads(sys.argv[1]))}))
