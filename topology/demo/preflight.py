# SPDX-License-Identifier: Apache-2.0
"""The demo's requirements of the machine, checked before anything is created; a line with the fix for each failure."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Programs and the Debian packages that have them.
COMMON = {"ip": "iproute2", "ethtool": "ethtool", "nsenter": "util-linux", "unshare": "util-linux"}
ROUTERS = {
    "bird": {"bird": "bird2", "birdc": "bird2"},
    "frr": {"vtysh": "frr", "/usr/lib/frr/zebra": "frr", "/usr/lib/frr/bgpd": "frr"},
}
#: BCC belongs to the system's interpreter; the virtual environment sees it by --system-site-packages.
SYSTEM_PYTHON = "/usr/bin/python3"
BPF_MAP_TYPE_ARRAY = 2


def missing(router: str, output: Path, programs: Mapping[str, str]) -> list[str]:
    """Return a line for each requirement that is not met by a demo with this router that writes `output`.

    `programs`: what its labs need besides, and the Debian packages that have it.
    """
    if os.geteuid() != 0:
        return ["not root: network namespaces and BPF need it; run it with sudo"]
    return [
        *_missing_programs({**COMMON, **ROUTERS[router], **programs}),
        *_missing_python(),
        *_missing_rights(),
        *_unwritable(output),
    ]


def _missing_programs(required: Mapping[str, str]) -> Iterator[str]:
    packages: dict[str, list[str]] = {}
    for program, package in required.items():
        if not shutil.which(program):
            packages.setdefault(package, []).append(program)
    for package, programs in packages.items():
        yield f"{' and '.join(programs)} not found: apt-get install {package}"


def _missing_python() -> Iterator[str]:
    if not Path(sys.executable).with_name("lbctl").exists():
        yield f"lbctl is not installed next to {sys.executable}: pip install -e . with that environment's pip"
    if importlib.util.find_spec("exabgp") is None:
        yield "ExaBGP is not installed in this environment: pip install -e . with its pip"
    if subprocess.run([SYSTEM_PYTHON, "-c", "import bcc"], capture_output=True, check=False).returncode:
        yield f"{SYSTEM_PYTHON} cannot import bcc: apt-get install python3-bpfcc"


def _missing_rights() -> Iterator[str]:
    argv = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"]
    if shutil.which("unshare") and subprocess.run(argv, capture_output=True, check=False).returncode:
        yield "namespaces cannot be created here (a container?): run it with CAP_SYS_ADMIN, best on its own machine"
    try:
        libbpf = ctypes.CDLL("libbpf.so.1")
    except OSError:
        yield "libbpf.so.1 not found: apt-get install python3-bpfcc"
        return
    fd = libbpf.bpf_map_create(BPF_MAP_TYPE_ARRAY, b"anylb_probe", 4, 4, 1, None)
    if fd < 0:  # libbpf 1 returns -errno
        reason = os.strerror(-fd)
        yield f"BPF is not usable here ({reason}): run it on a kernel with CONFIG_BPF_SYSCALL, outside a container"
    else:
        os.close(fd)


def _unwritable(output: Path) -> Iterator[str]:
    if not os.access(output.absolute().parent, os.W_OK | os.X_OK):
        yield f"{output}: cannot be written; name another file with --json"
