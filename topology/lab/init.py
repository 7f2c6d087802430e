# SPDX-License-Identifier: Apache-2.0
"""The first process of a node: makes the namespaces and mounts, then is their init (pid 1) until the node ends.

Runs as `python -S -m topology.lab.init LAB NODE` with a stream socket as standard input. Owns: what is private in a
node, reaping, the node's `cmd`, its end. Does not own: links, `exec` lines, records (link.py, lab.py).

    runner                                   node
      │  {"hostname", "binds", ...}\\n          │   outer process: unshare, fork
      │ ───────────────────────────────────►  │
      │  {"pid": HOST PID}\\n                   │
      │ ◄───────────────────────────────────  │   outer process exits; the child is pid 1 in there
      │  {"ready": true}\\n | {"error": ...}\\n  │   mounts, sysctls and cmd are done, or what failed
      │ ◄───────────────────────────────────  │
      │  keep\\n                                │   from now on the node outlives the runner
      │ ───────────────────────────────────►  │

End of file instead of `keep` (the runner died, by kill -9 too) ends the init, and with it, by pid_namespaces(7),
every process in the node; with the last of them go its mounts and links. Standard library only: it starts in 10 ms.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from topology.lab import netns

STAGE = "/run"  # hosts the overlays' upper layers until the private /run covers it
# What the host has is read, what a node writes stays in the node. A file that the host replaces (renames another over
# it) after a node has read it stays the old one in that node, as a bind-mounted file does; the project's own do not.
OVERLAID = ("/etc", "/tmp", "/var/cache", "/var/lib")  # noqa: S108
TERM_GRACE_S = 2.0
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class Bind(TypedDict):
    """One bind mount; `source` is absolute, on the host."""

    source: str
    target: str
    read_only: bool


class NodeSetup(TypedDict):
    """What the runner sends: everything the init needs to know."""

    hostname: str
    binds: list[Bind]
    passed: list[str]  # host directories that stay as they are even below one that is made private
    sysctls: dict[str, str]
    cmd: list[str]
    env: dict[str, str]


class SetupError(Exception):
    """What could not be set up, in one line."""


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """One JSON line to the runner."""
    channel.sendall(json.dumps(message).encode() + b"\n")


def _mount_point(target: str, *, directory: bool) -> None:
    path = Path(target)
    if path.exists():
        return
    if not any(path.is_relative_to(private) for private in (*OVERLAID, "/run", "/var/log", "/var/tmp")):  # noqa: S108
        raise SetupError(
            f"bind target {target} does not exist and would have to be made on the host: "
            "create it, or use one below /etc, /run, /tmp, /var/cache, /var/lib, /var/log or /var/tmp: "
            "they are private to the node"
        )
    if directory:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def private_mounts(setup: NodeSetup) -> None:
    """Give this mount namespace its own /proc, /sys, bpffs, /run, folders below /var, temporary folders, binds."""
    netns.mount("none", "/", flags=netns.MS_REC | netns.MS_PRIVATE)
    # Opened now: a bind source may lie below a directory that is about to be covered.
    wanted = [Bind(source=d, target=d, read_only=False) for d in setup["passed"]] + setup["binds"]
    opened: list[tuple[int, Bind]] = []
    for bind in wanted:
        try:
            opened.append((os.open(bind["source"], os.O_PATH | os.O_CLOEXEC), bind))
        except OSError as error:
            raise SetupError(f"bind source {bind['source']}: {error.strerror}") from None
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
    name_resolution(setup["hostname"])
    netns.mount("proc", "/proc", "proc")
    netns.mount("sysfs", "/sys", "sysfs")  # of this network namespace
    netns.mount("bpf", "/sys/fs/bpf", "bpf", data="mode=700")
    for fd, bind in opened:
        _mount_point(bind["target"], directory=os.path.isdir(f"/proc/self/fd/{fd}"))
        netns.mount(f"/proc/self/fd/{fd}", bind["target"], flags=netns.MS_BIND | netns.MS_REC)
        if bind["read_only"]:
            flags = netns.MS_REMOUNT | netns.MS_BIND | netns.MS_RDONLY
            netns.mount("none", bind["target"], flags=flags)
        os.close(fd)


def name_resolution(hostname: str) -> None:
    """A node knows its own name and asks nobody: the host's resolver is out of reach, and a program that looks its own
    name up (ExaBGP does, at each start) would wait 5 s for it."""
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")
    resolver = Path("/etc/resolv.conf")
    resolver.unlink(missing_ok=True)  # it may be a link to somewhere that the node does not have
    resolver.write_text("")


def set_sysctls(sysctls: dict[str, str]) -> None:
    """Write each below /proc/sys; the caller stands in the node's network namespace. Raises SetupError."""
    for name, value in sysctls.items():
        try:
            Path("/proc/sys", name.replace(".", "/")).write_text(value)
        except OSError as error:
            reason = "no such key in a network namespace" if isinstance(error, FileNotFoundError) else error.strerror
            raise SetupError(f"sysctl {name} = {value}: {reason}") from None


def loopback_up() -> None:
    """Set `lo` up, as every container runtime does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack("16sh22x", request)[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def start_cmd(setup: NodeSetup) -> subprocess.Popen[bytes] | None:
    """Start the node's main process, its output in /var/log/cmd.log; None if it has none. Raises SetupError."""
    if not setup["cmd"]:
        return None
    with open("/var/log/cmd.log", "wb") as log:
        try:
            return subprocess.Popen(
                setup["cmd"], env=setup["env"], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        except OSError as error:
            raise SetupError(f"cmd: {setup['cmd'][0]}: {error.strerror}") from None


class Init:
    """Pid 1 of a node: reaps, forwards SIGTERM, ends with the node's cmd or with a runner that has not said `keep`."""

    def __init__(self, channel: socket.socket, main_pid: int | None) -> None:
        self.channel: socket.socket | None = channel
        self.main_pid = main_pid
        self.deadline: float | None = None  # of a SIGTERM's grace, by time.monotonic()
        self.wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # the wakeup fd carries the number

    def run(self) -> int:
        """Serve until the node ends; the result is the exit status."""
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        if self.channel is not None:
            poller.register(self.channel, select.POLLIN)
        while True:
            status = self._reap()
            if status is not None:
                return status
            left_ms = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) * 1000
            events = poller.poll(left_ms)
            if not events and self.deadline is not None:
                return 128 + signal.SIGTERM
            for fd, _ in events:
                if fd == self.wake:
                    self._on_signals(os.read(self.wake, 256))
                elif self.channel is not None:
                    poller.unregister(self.channel)
                    if not self.channel.recv(16).startswith(b"keep"):
                        return 0  # the runner is gone: so is the node
                    self.channel.close()
                    self.channel = None

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers and self.deadline is None:
            self.deadline = time.monotonic() + TERM_GRACE_S
            with suppress(ProcessLookupError):  # the init is alone in the node
                os.kill(-1, signal.SIGTERM)

    def _reap(self) -> int | None:
        """Collect every dead child; the exit status to end with, if the node is to end."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return None
                if pid == self.main_pid:
                    return self._main_ended(os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            return None if self.deadline is None else 128 + signal.SIGTERM

    def _main_ended(self, code: int) -> int:
        if self.channel is not None:
            said = Path("/var/log/cmd.log").read_text(errors="replace").strip().splitlines()
            how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            with suppress(OSError):  # nobody is left to be told
                send(self.channel, {"error": f"cmd {how}" + (f": {said[-1]}" if said else "")})
        return code if code >= 0 else 128 - code


def _become_init(channel: socket.socket, setup: NodeSetup) -> int:
    os.setsid()
    try:
        private_mounts(setup)
        socket.sethostname(setup["hostname"])
        set_sysctls(setup["sysctls"])
        loopback_up()
        main = start_cmd(setup)
    except SetupError as error:
        send(channel, {"error": str(error)})
        return 1
    except OSError as error:
        send(channel, {"error": error.strerror})
        return 1
    init = Init(channel, None if main is None else main.pid)
    send(channel, {"ready": True})
    return init.run()


def main() -> int:
    """Read the setup, enter new namespaces, leave a child in them as their init."""
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    with channel.makefile("r") as lines:
        line = lines.readline()
    if not line:
        return 1  # the runner died first
    setup: NodeSetup = json.loads(line)
    flags = netns.CLONE_NEWNET | netns.CLONE_NEWNS | netns.CLONE_NEWUTS | netns.CLONE_NEWIPC | netns.CLONE_NEWPID
    try:
        netns.unshare(flags)
    except OSError as error:
        send(channel, {"error": f"no right to make namespaces ({error.strerror}): run as root, with CAP_SYS_ADMIN"})
        return 1
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _become_init(channel, setup)
        finally:
            os._exit(status)  # never unwinds into the outer process's code
    send(channel, {"pid": pid})
    return 0


if __name__ == "__main__":
    sys.exit(main())
