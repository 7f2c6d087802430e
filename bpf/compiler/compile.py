# SPDX-License-Identifier: Apache-2.0
"""Compiles lb.c and mss_clamp.c with BCC, each in a short-lived child: LLVM's ~120 MB must not stay in a daemon.

`build_all()` is the parent's side, which loads and pins what the children have made, or ones before them. A child
(`python -m bpf.compiler.compile`) joins our headers into one text, compiles it against maps that are pinned already, and exits.
Its stdout is one line of JSON: a program (program.py), or `{"error": MESSAGE}`; on its stderr is what clang said.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from bpf.compiler.program import Program, ProgramCache, map_fds
from bpf.errors import BpfError
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin, pin_object
from bpf.layout import map_spec
from bpf.layout.c_assertion import assertions
from bpf.layout.limits import ROWS_MIN

_SOURCES: Final = Path(__file__).resolve().parents[1] / "src"
_HEADERS: Final = _SOURCES / "kheaders"
_INCLUDE: Final = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)
_TIMEOUT_S: Final = 60
_SIDE_BY_SIDE: Final = 2
"""How many children compile at once: a node with one uplink has two programs. Each child holds 145 MB for a second."""


def source(main: str = "lb.c") -> str:
    """Return lb.c, or mss_clamp.c, with our own headers put in where they are included.

    BCC rewrites map lookups only in the main text, so a header with a lookup would compile to a program that does
    not load. `#line` keeps file and line of compile errors right.
    """

    included: set[str] = set()

    def joined(name: str) -> str:
        included.add(name)
        text = (_SOURCES / name).read_text().replace("#pragma once\n", "\n")

        def put_in(match: re.Match[str]) -> str:
            if match[1] in included:
                return ""
            after = text.count("\n", 0, match.end()) + 2
            return f'{joined(match[1])}\n#line {after} "{name}"'

        return f'#line 1 "{name}"\n' + _INCLUDE.sub(put_in, text)

    return joined(main) + "\n" + assertions()


@dataclass(frozen=True)
class LbOptions:
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
class MssClampOptions:
    """The tc egress program has none."""

    main: ClassVar[str] = "mss_clamp.c"
    kind: ClassVar[str] = "tc"

    def defines(self) -> list[str]:
        """Return the compiler's arguments."""
        return []


AnyOptions = LbOptions | MssClampOptions


def digest(options: AnyOptions) -> str:
    """Name the program that `build` would make: another one for any change of source, headers or options."""
    content = hashlib.sha256(f"{source(options.main)} {options.defines()}".encode())
    for header in sorted(_HEADERS.rglob("*.h")):
        content.update(header.read_bytes())
    return content.hexdigest()[:12]


def name_of(options: AnyOptions) -> str:
    """What the kernel shows such a program as: `lb_` or `clamp_` and the digest, cut to 15 characters."""
    return f"{Path(options.main).stem}_{digest(options)}"[:15]


def build(
    maps: Path, program: Path, options: AnyOptions, warnings_are_errors: bool = False, kept: Path | None = None
) -> None:
    """Make one program as `build_all` does. Raises BpfError with the first thing that is wrong."""
    for error in build_all(maps, {program: options}, warnings_are_errors, kept).values():
        raise error


def build_all(
    maps: Path, programs: Mapping[Path, AnyOptions], warnings_are_errors: bool = False, kept: Path | None = None
) -> dict[Path, BpfError]:
    """Load programs with the maps pinned in `maps`, pin each at its path; return what went wrong.

    Compiles what does not lie in the folder `kept`. Warnings are errors for the tests only: another clang than ours may
    find some in BCC's own headers.
    """
    errors: dict[Path, BpfError] = {}
    missing: dict[Path, AnyOptions] = {}
    shelf = ProgramCache(kept) if kept else None
    for path, options in programs.items():
        found = shelf.get(name_of(options)) if shelf else None
        try:
            if found is None:
                missing[path] = options
            else:
                _load(found, maps, path)
        except BpfError:  # it is compiled again, and what is wrong then is told
            missing[path] = options
    made = compiled(maps, missing.values(), warnings_are_errors) if missing else []
    for path, program in zip(missing, made, strict=True):
        try:
            if isinstance(program, BpfError):
                raise program
            _load(program, maps, path)
        except BpfError as error:
            errors[path] = error
        else:
            if shelf:
                shelf.put(program)
    return errors


def _load(program: Program, maps: Path, path: Path) -> None:
    fd = program.load(maps)
    try:
        pin_object(fd, path)
    finally:
        os.close(fd)


def compiled(maps: Path, programs: Iterable[AnyOptions], warnings_are_errors: bool = False) -> list[Program | BpfError]:
    """Have children compile against the maps pinned in `maps`; of each the program, or what is wrong with it."""
    # Nobody reads debug information: without it a sixth of the time is saved, with IPv6 a quarter.
    flags = ["-g0", *(["-Wall", "-Werror"] if warnings_are_errors else [])]
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return list(pool.map(lambda options: _compile(maps, options, flags), programs))


def _compile(maps: Path, options: AnyOptions, flags: list[str]) -> Program | BpfError:
    """The parent's side of one child."""
    job = {
        "maps": str(maps),
        "main": options.main,
        "kind": options.kind,
        "name": name_of(options),
        "flags": [f"-DPINS={json.dumps(str(maps))}", *options.defines(), *flags],
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bpf.compiler.compile", json.dumps(job)],
            cwd=_SOURCES.parents[1],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return BpfError(f"the BPF compiler did not end within {_TIMEOUT_S} s")
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        return BpfError(f"the BPF compiler died (exit {child.returncode}): {last}")
    if "error" in answer:
        return BpfError(f"{answer['error']}{_first_error(child.stderr)}")
    return Program.from_json(answer)


def _first_error(stderr: str) -> str:
    """What clang said, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror:", line)]
    return f": {(errors or lines)[0]}" if lines else ""


def _child(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one program: what it is, or what is wrong. Runs in the child only: importing bcc loads LLVM."""
    os.environ["BCC_KERNEL_SOURCE"] = str(_HEADERS)
    try:
        from bcc import BPF
    except ImportError as error:
        return {
            "error": f"BCC is missing ({error}): apt install python3-bpfcc, and make the virtual environment with "
            "/usr/bin/python3 -m venv --system-site-packages"
        }
    # BPF() raises a bare Exception for whatever goes wrong; what it was stands on stderr.
    try:
        module = BPF(text=source(job["main"]), cflags=[f"-DPROGRAM={job['name']}", *job["flags"]])
    except Exception:
        return {"error": f"the {job['kind']} program does not compile"}
    code = module.dump_func(job["name"].encode())
    pins = {spec.name: open_pin(Path(job["maps"]) / spec.name) for spec in map_spec.map_specs(ROWS_MIN)}
    names = {bpf_map.map_id(fd): name for name, fd in pins.items() if fd is not None}
    maps = {fd: names[bpf_map.map_id(fd)] for fd in map_fds(code).values()}
    return Program.of(job["kind"], job["name"], code, maps).to_json()


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
