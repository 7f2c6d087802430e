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

_TIMEOUT_S: Final = 60
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
    errors: dict[Path, BpfError] = {}
    missing: dict[Path, Options] = {}
    cache = ProgramCache(cache_dir) if cache_dir else None
    for path, options in wanted.items():
        cached = cache.get(build_name(options)) if cache else None
        try:
            if cached is None:
                missing[path] = options
            else:
                _load(cached, maps, path)
        except BpfError:  # it is compiled again, and that error counts
            missing[path] = options
    made = compile_programs(maps, missing.values(), warnings_are_errors) if missing else []
    for path, program in zip(missing, made, strict=True):
        try:
            if isinstance(program, BpfError):
                raise program
            _load(program, maps, path)
        except BpfError as error:
            errors[path] = error
        else:
            if cache:
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


def _load(program: Program, maps: Path, path: Path) -> None:
    """Load a program and pin it, its tail calls first: a pinned program has them."""
    loaded = program.load(maps)
    try:
        if loaded.tail_calls is not None:
            calls = tail_calls_pin(path)
            with contextlib.suppress(FileNotFoundError):  # of the same build: it may be attached until this one is
                calls.rename(calls.with_name(f"{calls.name}_replaced"))
            pin_object(loaded.tail_calls, calls)
        pin_object(loaded.fd, path)
    finally:
        loaded.close()


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
