# SPDX-License-Identifier: Apache-2.0
"""The private file systems of a node, mounted by its init in its own mount namespace.

Owns: which folders are private, bind mounts, the node's name resolution. Standard library only, as init.py.
"""

import os
import stat
from pathlib import Path

from topology.lab import netns
from topology.lab.node_setup import BindMount, NodeSetup, SetupError

STAGE = "/run"  # hosts the overlays' upper layers until the private /run covers it
# Reads see the host's files, writes stay in the node. A file that the host replaces (renames another over it) after a
# node has read it stays the old one in that node, as a bind-mounted file does; the project's own do not.
OVERLAID = ("/etc", "/tmp", "/var/cache", "/var/lib")  # noqa: S108
PRIVATE = (*OVERLAID, "/run", "/var/log", "/var/tmp")  # noqa: S108


def mount_private(setup: NodeSetup) -> None:
    """Give this mount namespace its own /proc, /sys, bpffs, /run, folders below /var, temporary folders, binds.

    All else is the host's, and read-only: a command that runs in the wrong place breaks nothing there. Raises
    SetupError or OSError.
    """
    netns.mount("none", "/", flags=netns.MS_REC | netns.MS_PRIVATE)
    # Opened first: a bind source may lie below a directory that is covered next.
    opened = _open_sources(setup)
    netns.make_read_only("/")
    netns.mount("tmpfs", STAGE, "tmpfs", data="mode=755")
    for path in OVERLAID:
        upper, work = f"{STAGE}/{path}.upper", f"{STAGE}/{path}.work"
        os.makedirs(upper)
        os.makedirs(work)
        os.chmod(upper, os.stat(path).st_mode & 0o7777)  # the upper root's mode is the merged root's
        netns.mount("overlay", path, "overlay", data=f"lowerdir={path},upperdir={upper},workdir={work}")
    netns.mount("tmpfs", "/run", "tmpfs", data="mode=755")
    netns.mount("tmpfs", "/var/log", "tmpfs", data="mode=755")
    netns.mount("tmpfs", "/var/tmp", "tmpfs", data="mode=1777")  # noqa: S108
    netns.mount("tmpfs", "/dev/shm", "tmpfs", netns.MS_NOSUID | netns.MS_NODEV, "mode=1777")  # noqa: S108
    os.makedirs("/run/lock", mode=0o1777)
    _write_name_resolution(setup["hostname"])
    netns.mount("proc", "/proc", "proc")
    netns.mount("sysfs", "/sys", "sysfs")  # of this network namespace
    netns.mount("bpf", "/sys/fs/bpf", "bpf", data="mode=700")
    for fd, bind in opened:
        _bind(fd, bind)


def _open_sources(setup: NodeSetup) -> list[tuple[int, BindMount]]:
    shared = [BindMount(source=path, target=path, read_only=False) for path in setup["shared"]]
    opened = []
    for bind in shared + setup["binds"]:
        try:
            opened.append((netns.clone_mounts(bind["source"]), bind))
        except OSError as error:
            raise SetupError(f"bind source {error.strerror}") from None
    return opened


def _bind(fd: int, bind: BindMount) -> None:
    _create_target(bind["target"], directory=stat.S_ISDIR(os.fstat(fd).st_mode))
    netns.attach_mounts(fd, bind["target"])
    if bind["read_only"]:
        netns.make_read_only(bind["target"])
    os.close(fd)


def _create_target(target: str, *, directory: bool) -> None:
    path = Path(target)
    if path.exists():
        return
    if not any(path.is_relative_to(private) for private in PRIVATE):
        raise SetupError(
            f"bind target {target} does not exist, and a node creates nothing on the host: "
            "create it, or use one below /etc, /run, /tmp, /var/cache, /var/lib, /var/log or /var/tmp, "
            "which are private to the node"
        )
    if directory:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _write_name_resolution(hostname: str) -> None:
    """Let a node resolve its own name without a resolver.

    The host's resolver is out of reach, and a program that looks its own name up (ExaBGP does, at each start) would
    wait 5 s for it.
    """
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")
    resolver = Path("/etc/resolv.conf")
    resolver.unlink(missing_ok=True)  # it may be a link to a file that the node does not have
    resolver.write_text("")
