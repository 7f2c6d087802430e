# SPDX-License-Identifier: Apache-2.0
"""`make deb`: dist/anylb_VERSION_ARCHITECTURE.deb, for Debian 12 and 13.

    /opt/anylb/bin/python -> /usr/bin/python3         a virtual environment that sees Debian's packages: BCC is there
    /opt/anylb/lib/python3.N/site-packages        for each N in PYTHONS: this tree, and requirements/agent.txt
    /usr/bin/lbctl, units, manual pages, completion, /etc/anylb/lb.yml

One package for both: a virtual environment is a folder, and Python looks in that of its own version. So nothing is
downloaded or resolved on a server, and an upgrade of Debian keeps the agent. Files of the two that are equal, which are
all but the extension modules, are one file (a hard link).

The bytes depend on the tree and on requirements/agent.txt alone: times are the last commit's, and nothing keeps a path
of this machine. Bytecode is made on the server (postinst), by the Python that runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from package.manual import COMPLETIONS, completion, configuration_page, lbctl_page

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
PYTHONS = ("3.11", "3.13")
"""Debian 12's and 13's."""
HOME = "opt/anylb"
LBCTL = f"""\
#!/{HOME}/bin/python -I
from agent.cli.main import main

main(prog_name="lbctl")
"""
# No `version`: it is that of the Python which reads it.
VENV = "home = /usr/bin\ninclude-system-site-packages = true\n"
_OF_MAINTAINER = ("postinst", "prerm", "postrm")
_OF_PIP = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""What pip writes about itself: with the paths of this machine, and dpkg has its own record."""


def main() -> None:
    """Build the package."""
    arguments = argparse.ArgumentParser(description="Build the Debian package.")
    arguments.add_argument("--output", type=Path, default=ROOT / "dist", help="the folder of the result")
    arguments.add_argument("--revision", default="", help="added to the version, as +test1")
    arguments.add_argument("--compression", default="xz", help="none for a quick trial")
    options = arguments.parse_args()
    print(build(options.output, options.revision, options.compression))


def build(output: Path, revision: str = "", compression: str = "xz") -> Path:
    """Build the package into a folder; return its path. Raises CalledProcessError, after the command's own message."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = project["version"] + revision
    architecture = _output("dpkg", "--print-architecture")
    os.environ["SOURCE_DATE_EPOCH"] = _output("git", "-C", str(ROOT), "log", "-1", "--format=%ct")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="anylb-deb-") as made:
        tree = Path(made, "tree")
        _fill(tree, Path(made))
        values = {
            "VERSION": version,
            "ARCHITECTURE": architecture,
            "PYTHON": _python_dependency(),
            "SUMMARY": "layer-4 load balancer on the servers themselves: BGP anycast, ECMP, XDP",
        }
        _write_control(tree, values)
        _set_modes_and_times(tree, int(os.environ["SOURCE_DATE_EPOCH"]))
        target = output / f"anylb_{version}_{architecture}.deb"
        _run("dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(target))
    return target


def _fill(tree: Path, scratch: Path) -> None:
    """Make what is installed."""
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch))
    (wheel,) = scratch.glob("anylb-*.whl")
    folders = [tree / HOME / "lib" / f"python{version}" / "site-packages" for version in PYTHONS]
    for version, folder in zip(PYTHONS, folders, strict=True):
        _install(version, folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    _share_equal_files(folders)
    _write(tree / HOME / "pyvenv.cfg", VENV)
    _write(tree / HOME / "bin/lbctl", LBCTL, 0o755)
    (tree / HOME / "bin/python").symlink_to("/usr/bin/python3")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/lbctl").symlink_to(f"/{HOME}/bin/lbctl")
    for unit in (ROOT / "agent/systemd").iterdir():
        folder = "usr/lib/systemd/system" if unit.suffix == ".service" else "usr/share/anylb/systemd"
        _write(tree / folder / unit.name, unit.read_text())
    _write(tree / "etc/anylb/lb.yml", (HERE / "lb.yml").read_text())
    _write(tree / "usr/share/man/man1/lbctl.1", lbctl_page())
    _write(tree / "usr/share/man/man5/lb.yml.5", configuration_page())
    for shell, path in COMPLETIONS.items():
        _write(tree / path, completion(shell))
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))):
        _write(tree / "usr/share/doc/anylb" / page.relative_to(ROOT), page.read_text())
    _write(tree / "usr/share/doc/anylb/copyright", (HERE / "deb/copyright").read_text())


def _install(version: str, folder: Path) -> None:
    """Install what requirements/agent.txt names for a version of Python, which need not be here."""
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"),
        *("--no-compile", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--implementation", "cp", "--python-version", version, "--target", str(folder)),
        *("--requirement", str(ROOT / "requirements/agent.txt")),
    )
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for tests in folder.glob("numpy/**/tests"):
        shutil.rmtree(tests)
    for name in _OF_PIP:
        for path in folder.glob(f"*.dist-info/{name}"):
            path.unlink()


def _share_equal_files(folders: list[Path]) -> None:
    """Make files that are equal in all folders one file."""
    first, *others = folders
    for other in others:
        for path in _files(other):
            same = first / path.relative_to(other)
            if same.is_file() and same.read_bytes() == path.read_bytes():
                path.unlink()
                path.hardlink_to(same)


def _python_dependency() -> str:
    """Return the dependency on a Python of one of these versions."""
    ranges = []
    for version in PYTHONS:
        major, minor = map(int, version.split("."))
        ranges.append((f"python3 (>= {version}~)", f"python3 (<< {major}.{minor + 1}~)"))
    (oldest, gap), (second, newest) = ranges
    return f"{oldest}, {gap} | {second}, {newest}"


def _write_control(tree: Path, values: dict[str, str]) -> None:
    files = sorted(_files(tree))
    inodes = {path.lstat().st_ino: path.lstat().st_size for path in files}
    text = (HERE / "deb/control.in").read_text()
    for name, value in (values | {"SIZE_KB": str(sum(inodes.values()) // 1024)}).items():
        text = text.replace(f"@{name}@", value)
    sums = [f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"
            for path in files if not path.is_symlink()]  # fmt: skip
    _write(tree / "DEBIAN/control", text)
    _write(tree / "DEBIAN/md5sums", "".join(sums))
    for name in ("triggers", "conffiles", *_OF_MAINTAINER):
        mode = 0o755 if name in _OF_MAINTAINER else 0o644
        _write(tree / "DEBIAN" / name, (HERE / "deb" / name).read_text(), mode)


def _set_modes_and_times(tree: Path, time: int) -> None:
    """Give every file the mode that its use needs, whatever the umask, and the time of the commit."""
    for path in [*tree.rglob("*"), tree]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (time, time), follow_symlinks=False)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
