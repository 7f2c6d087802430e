# SPDX-License-Identifier: Apache-2.0
"""Compiles lb.c with BCC, in a short-lived child of its own: LLVM's ~120 MB must not stay in a daemon.

`build()` is the parent's side. The child (`python -m bpf.compile`) joins our headers into one text, compiles and
loads it against maps that are pinned already, pins the program and exits. Its stdout is one line of JSON:
`{"pinned": PATH}` or `{"error": MESSAGE}`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bpf import mapspec
from bpf.errors import BpfError

_HERE: Final = Path(__file__).resolve().parent
_HEADERS: Final = _HERE / "kheaders"
_INCLUDE: Final = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)
_TIMEOUT_S: Final = 60


def source() -> str:
    """Return lb.c with our own headers put in where they are included.

    BCC rewrites map lookups only in the main text, so a header with a lookup would compile to a program that does
    not load. `#line` keeps file and line of compile errors right.
    """

    def joined(name: str) -> str:
        text = (_HERE / name).read_text()

        def put_in(match: re.Match[str]) -> str:
            after = text.count("\n", 0, match.end()) + 2
            return f'{joined(match[1])}\n#line {after} "{name}"'

        return f'#line 1 "{name}"\n' + _INCLUDE.sub(put_in, text)

    return joined("lb.c") + "\n" + mapspec.assertions()


@dataclass(frozen=True)
class Options:
    """What a program is compiled for: rows of each service, its place among the uplinks, and what it can do."""

    rows: int
    uplink: int = 0
    ipv6: bool = True

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        values = {"ROWS": self.rows, "UPLINK": self.uplink, "IPV6": int(self.ipv6)}
        return [f"-D{name}={value}" for name, value in values.items()]


def digest(options: Options) -> str:
    """Name the program that `build` would make: another one for any change of source, headers or options."""
    content = hashlib.sha256(f"{source()} {options.defines()}".encode())
    for header in sorted(_HEADERS.rglob("*.h")):
        content.update(header.read_bytes())
    return content.hexdigest()[:12]


def build(maps: Path, program: Path, options: Options, warnings_are_errors: bool = False) -> None:
    """Compile and load the program against the maps pinned in `maps`, and pin it at `program`.

    The kernel shows it as `lb_` and the digest. Warnings are errors for the tests only: another clang than ours may
    find some in BCC's own headers. Raises BpfError with the first thing that is wrong.
    """
    request = {
        "maps": str(maps),
        "program": str(program),
        "name": f"lb_{digest(options)}",
        "options": [*options.defines(), *(["-Wall", "-Werror"] if warnings_are_errors else [])],
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bpf.compile", json.dumps(request)],
            cwd=_HERE.parent,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BpfError(f"the BPF compiler did not end within {_TIMEOUT_S} s") from None
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        raise BpfError(f"the BPF compiler died (exit {child.returncode}): {last}") from None
    if "error" in answer:
        raise BpfError(f"{answer['error']}{_first_error(child.stderr)}")


def _first_error(stderr: str) -> str:
    """What clang or the verifier said, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror:", line)]
    if errors:
        return f": {errors[0]}"
    verifier = [line for line in lines if not line.startswith(("processed ", "HINT:"))]
    return f": {'; '.join(verifier[-2:])}" if verifier else ""


def _child(request: dict[str, Any]) -> dict[str, str]:
    """Compile, load and pin. Runs in the child only: importing bcc loads LLVM."""
    os.environ["BCC_KERNEL_SOURCE"] = str(_HEADERS)
    try:
        from bcc import BPF
    except ImportError as error:
        return {
            "error": f"BCC is missing ({error}): apt install python3-bpfcc, and make the virtual environment with "
            "/usr/bin/python3 -m venv --system-site-packages"
        }
    flags = [f"-DPINS={json.dumps(request['maps'])}", f"-DPROGRAM={request['name']}", *request["options"]]
    # BPF() raises a bare Exception for whatever goes wrong; what it was stands on stderr.
    try:
        module = BPF(text=source(), cflags=flags)
    except Exception:
        return {"error": "the XDP program does not compile"}
    from bpf import kernel

    try:
        fd = kernel.load_xdp(request["name"], module.dump_func(request["name"].encode()))
        kernel.pin(fd, Path(request["program"]))
    except BpfError as error:
        return {"error": str(error)}
    return {"pinned": request["program"]}


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
