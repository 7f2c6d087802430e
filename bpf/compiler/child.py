# SPDX-License-Identifier: Apache-2.0
"""The child process that compiles one program: `python -m bpf.compiler.child JOB`, where JOB is JSON.

It compiles against maps that are pinned already. Its stdout is one line of JSON: a program (program.py), or
`{"error": MESSAGE}`; clang's messages are on its stderr. Only here is bcc imported, which loads LLVM.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from bpf.compiler.program import Program, map_fds
from bpf.compiler.source import KERNEL_HEADERS, program_text
from bpf.kernel import bpf_map
from bpf.kernel.pin import open_pin
from bpf.layout.map_spec import TAIL_CALLS


def compile_job(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one program and return it, or the error, as JSON values."""
    os.environ["BCC_KERNEL_SOURCE"] = str(KERNEL_HEADERS)
    try:
        from bcc import BPF
    except ImportError as error:
        return {
            "error": f"BCC is missing ({error}): apt install python3-bpfcc, and make the virtual environment with "
            "/usr/bin/python3 -m venv --system-site-packages"
        }
    pins = {name: open_pin(Path(job["maps"]) / name) for name in job["pins"]}
    by_fd = [f"-D{name.upper()}={pins[name]}" for name in job["by_fd"]]
    # BPF() raises a bare Exception for every failure; the reason is on stderr.
    try:
        module = BPF(text=program_text(job["main"]), cflags=[f"-DPROGRAM={job['name']}", *by_fd, *job["flags"]])
    except Exception:
        return {"error": f"the {job['kind']} program does not compile"}
    names = {bpf_map.map_id(fd): name for name, fd in pins.items() if fd is not None}
    if job["tails"]:
        names[bpf_map.map_id(module[TAIL_CALLS.name].map_fd)] = TAIL_CALLS.name

    def program(name: str, *tails: Program) -> Program:
        code = module.dump_func(name.encode())
        maps = {fd: names[bpf_map.map_id(fd)] for fd in map_fds(code).values()}
        return Program.of(job["kind"], name, code, maps, tails)

    return program(job["name"], *map(program, job["tails"])).to_json()


if __name__ == "__main__":
    print(json.dumps(compile_job(json.loads(sys.argv[1]))))
