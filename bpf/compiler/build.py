# SPDX-License-Identifier: Apache-2.0
"""Building programs: compiled by children or taken from the cache, then loaded and pinned by this process."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bpf.compiler.program import Program
from bpf.compiler.program_cache import ProgramCache
from bpf.compiler.source import SOURCES, Options, build_name, program_name
from bpf.errors import BpfError
from bpf.kernel.pin import pin_object

_TIMEOUT_S: Final = 150
"""It takes a second or two, but others may have all CPUs; systemd gives the start of an agent 180 s."""
_CHILDREN: Final = 2
"""How many children compile at once: a node with one uplink has two programs. Each child uses 145 MB for a second."""


def build_program(
    maps: Path, pin: Path, options: Options, warnings_are_errors: bool = False, cache_dir: Path | None = None
) -> None:
    """Build one program as `build_programs` does. Raises BpfError with its error."""
    for error in build_programs(maps, {pin: options}, warnings_are_errors, cache_dir).values():
        raise error


def build_programs(
    maps: Path, wanted: Mapping[Path, Options], warnings_are_errors: bool = False, cache_dir: Path | None = None
) -> dict[Path, BpfError]:
    """Build programs for the maps pinned in a folder, and pin each at its path; return the errors by path.

    Programs that are not in the cache folder are compiled. Warnings are errors in the tests only: another version of
    clang may warn about BCC's own headers.
    """
    if cache_dir is None:
        return _compile(maps, wanted, warnings_are_errors, None)
    cache = ProgramCache(cache_dir)
    absent, refused = set[Path](), set[Path]()
    for path, options in wanted.items():
        if (program := cache.get(build_name(options))) is None:
            absent.add(path)
        elif _load(program, maps, path):
            refused.add(path)  # it is compiled again, and that error counts
    if not absent | refused:
        return {}
    with cache.locked():
        # Nodes of a lab start together: the first compiles, and the others find its programs.
        found = {path: program for path in absent if (program := cache.get(build_name(wanted[path])))}
        missing = {path: options for path, options in wanted.items() if path in (absent | refused) - found.keys()}
        errors = _compile(maps, missing, warnings_are_errors, cache)
    return errors | {path: error for path, program in found.items() if (error := _load(program, maps, path))}


def _compile(
    maps: Path, wanted: Mapping[Path, Options], warnings_are_errors: bool, cache: ProgramCache | None
) -> dict[Path, BpfError]:
    """Compile programs, load and pin each, and keep those that load; return the errors by path."""
    errors: dict[Path, BpfError] = {}
    made = compile_programs(maps, wanted.values(), warnings_are_errors) if wanted else []
    for path, program in zip(wanted, made, strict=True):
        if isinstance(program, BpfError):
            errors[path] = program
        elif error := _load(program, maps, path):
            errors[path] = error
        elif cache:
            cache.put(build_name(wanted[path]), program)
    return errors


def compile_programs(
    maps: Path, wanted: Iterable[Options], warnings_are_errors: bool = False
) -> list[Program | BpfError]:
    """Compile programs in children, for the maps pinned in a folder; return each program, or its error."""
    # Debug information is not used: without it compiling takes a sixth less time, with IPv6 a quarter.
    flags = ["-g0", *(["-Wall", "-Werror"] if warnings_are_errors else [])]
    with ThreadPoolExecutor(_CHILDREN) as pool:
        return list(pool.map(lambda options: _run_child(maps, options, flags), wanted))


def tail_calls_pin(program: Path) -> Path:
    """Return the pin of a pinned program's tail calls. The kernel empties their map when the pin is gone."""
    return program.with_name(f"programs_{program.name}")


def _load(program: Program, maps: Path, path: Path) -> BpfError | None:
    """Load a program and pin it, its tail calls first: a pinned program has them. Return why that failed."""
    try:
        loaded = program.load(maps)
    except BpfError as error:
        return error
    try:
        if loaded.tail_calls is not None:
            calls = tail_calls_pin(path)
            with contextlib.suppress(FileNotFoundError):  # of the same build: it may be attached until this one is
                calls.rename(calls.with_name(f"{calls.name}_replaced"))
            pin_object(loaded.tail_calls, calls)
        pin_object(loaded.fd, path)
    except BpfError as error:
        return error
    finally:
        loaded.close()
    return None


def _run_child(maps: Path, options: Options, flags: list[str]) -> Program | BpfError:
    job = {
        "maps": str(maps),
        "main": options.main,
        "kind": options.kind,
        "name": program_name(options),
        "tails": options.tails,
        "pins": options.pins,
        "by_fd": options.by_fd,
        "flags": [f"-DPINS={json.dumps(str(maps))}", *options.defines(), *flags],
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", "bpf.compiler.child", json.dumps(job)],
            cwd=SOURCES.parents[1],
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
    """Return clang's first error, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror:", line)]
    return f": {(errors or lines)[0]}" if lines else ""
