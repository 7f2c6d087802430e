# SPDX-License-Identifier: Apache-2.0
"""The programs load on Debian 12's own kernel (6.1), booted under qemu with nothing but Python and bpf/ in it.

Optional: needs qemu-system-x86_64, cpio, and the kernel, named by ANYLB_VMLINUZ. For example:

    apt-get install qemu-system-x86 cpio; apt-get download linux-image-6.1.0-56-amd64; dpkg-deb -x linux-image-*.deb x
    ANYLB_VMLINUZ=$(echo x/boot/vmlinuz-6.1*) .venv/bin/pytest -m vm

The host compiles; the guest gets the instructions and the name of the map that each load of a descriptor means, makes
the maps, writes their descriptors into the instructions and loads the program.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bpf.compiler.build import compile_programs
from bpf.compiler.program import Program
from bpf.compiler.source import EgressOptions, InstanceOptions, LbOptions, SteerOptions
from bpf.layout.map_spec import NatShape
from bpf.layout.nat import SESSIONS_MIN
from bpf.maps.instance_maps import InstanceMaps
from bpf.maps.maps import Maps
from bpf.maps.steering_maps import SteeringMaps

ROOT = Path(__file__).parents[2]
PYTHON = Path("/usr/bin/python3.11")
ROWS = 4096
STEPS_MAX = 450_000
"""Of the verifier's million: the rest is for what a later version adds."""
NO_ENTROPY = "PYTHONHASHSEED=0"  # the kernel has no entropy yet, and passes this variable to init

CHOICES = {
    "ipv4": LbOptions(ROWS, ipv6=False),
    "ipv6": LbOptions(ROWS),
    "nat, ipv4": LbOptions(ROWS, ipv6=False, nat=True),
    "nat, ipv6": LbOptions(ROWS, nat=True, nat6=True),
    "egress": EgressOptions(),
    "instance": InstanceOptions(),
    "instance, udp": InstanceOptions(udp=True),
    "steer": SteerOptions(),
}

INIT = """#!/usr/bin/python3.11 -Ss
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
try:
    sys.path.insert(0, "/")
    for kind, where in ((b"proc", b"/proc"), (b"sysfs", b"/sys")):
        libc.mount(kind, where, kind, 0, None)
    from bpf.compiler.program import Program
    from bpf.kernel.bpf_map import create_map
    from bpf.kernel.program import program_info
    from bpf.layout.instance import map_specs as instance_specs
    from bpf.layout.map_spec import NatShape, map_specs, tail_calls
    from bpf.layout.steering import MAP_SPECS

    specs = (*map_specs(ROWS, NatShape(65536)), *instance_specs(True), *MAP_SPECS)
    made = {spec.name: create_map(spec) for spec in specs}
    whole = Program.from_json(json.load(open("/program.json")))
    made["programs"] = create_map(tail_calls(max(1, len(whole.tails))))
    for program in (whole, *whole.tails):
        fd = program.load_with(made).fd
        print("LOADED", program.name, "on", os.uname().release, "after", program_info(fd).verified_insns, "steps")
    print("DONE")
except BaseException as error:
    print("FAILED", repr(error))
sys.stdout.flush()
libc.reboot(0x4321FEDC)
"""


def needs() -> str | None:
    """Return what is missing; None if nothing is."""
    missing = [name for name in ("qemu-system-x86_64", "cpio") if not shutil.which(name)]
    missing += [] if PYTHON.exists() else [str(PYTHON)]
    missing += [] if os.environ.get("ANYLB_VMLINUZ") else ["ANYLB_VMLINUZ"]
    return ", ".join(missing) or None


def libraries(*binaries: Path) -> set[Path]:
    output = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", output)}


def modules() -> set[Path]:
    """Return the files of the standard library that the guest needs, from Debian's Python."""
    code = (
        "import bpf.compiler.program, bpf.kernel.bpf_map, bpf.kernel.program, bpf.layout.instance\n"
        "import bpf.layout.steering\n"
        "import ctypes, encodings.utf_8, encodings.latin_1, json, os, sys\n"
        "print(*(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)), sep='\\n')"
    )
    listed = subprocess.run([PYTHON, "-ESs", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
                            capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    return {Path(path) for path in listed if path.startswith("/usr/lib")}


def pack_guest(folder: Path, program: Path) -> Path:
    """Make the initial RAM file system: Debian's Python, bpf/ and the program's instructions."""
    root = folder / "root"
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    os.mknod(root / "dev/console", 0o600 | 0o020000, os.makedev(5, 1))
    libbpf = Path("/usr/lib/x86_64-linux-gnu/libbpf.so.1")
    wanted = modules()
    extensions = [path for path in wanted if path.suffix == ".so"]
    for path in {PYTHON, libbpf, *wanted, *libraries(PYTHON, libbpf, *extensions)}:
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(ROOT / "bpf", root / "bpf", dirs_exist_ok=True)
    shutil.copy(program, root / "program.json")
    (root / "init").write_text(INIT.replace("ROWS", str(ROWS)))
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = folder / "guest.cpio"
    with archive.open("wb") as file:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=file, cwd=root, check=True)
    return archive


@pytest.mark.vm
@pytest.mark.skipif(needs() is not None, reason=f"missing: {needs()}")
@pytest.mark.parametrize("which", list(CHOICES))
def test_programs_load_on_debian_12_kernel(proof_bpffs: Path, tmp_path: Path, which: str) -> None:
    maps = proof_bpffs / "vm"
    maps.mkdir()
    try:
        Maps.open(maps, ROWS, NatShape(SESSIONS_MIN)).close()
        InstanceMaps.open(maps, udp=True).close()
        SteeringMaps.open(maps).close()
        (program,) = compile_programs(maps, [CHOICES[which]])
        assert isinstance(program, Program), program
        (tmp_path / "program.json").write_text(json.dumps(program.to_json()))
    finally:
        shutil.rmtree(maps)
    guest = pack_guest(tmp_path, tmp_path / "program.json")
    qemu = [
        "qemu-system-x86_64", "-machine", "accel=tcg", "-m", "768", "-nographic", "-no-reboot",
        "-kernel", os.environ["ANYLB_VMLINUZ"], "-initrd", str(guest),
        "-append", f"console=ttyS0 quiet panic=-1 {NO_ENTROPY}",
    ]  # fmt: skip
    output = subprocess.run(
        qemu, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False
    ).stdout
    print(output)
    steps = re.findall(r"LOADED \S+ on 6\.1\.\S+ after (\d+) steps", output)
    assert "DONE" in output, output[-3000:]
    assert len(steps) == 1 + len(CHOICES[which].tails), "with what tail calls lead to"
    assert max(map(int, steps)) <= STEPS_MAX
