# SPDX-License-Identifier: Apache-2.0
"""The first process of a node: enters new namespaces, sets the node up, then is its init (pid 1) until the node ends.

Runs as `python -S -m topology.lab.init LAB NODE` with a stream socket as standard input; node_setup.py has the messages
on it. Owns: sysctls, the loopback interface, reaping, the node's `cmd`, its end. Does not own: mounts (mounts.py),
links, `exec` lines and records (link.py, build.py). Standard library only: it starts in 10 ms.
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

from topology.lab import netns
from topology.lab.mounts import mount_private
from topology.lab.node_setup import NodeSetup, SetupError, send

TERM_GRACE_S = 2.0
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def set_sysctls(sysctls: dict[str, str]) -> None:
    """Write each below /proc/sys; the caller is in the node's network namespace. Raises SetupError."""
    for name, value in sysctls.items():
        try:
            Path("/proc/sys", name.replace(".", "/")).write_text(value)
        except OSError as error:
            reason = "no such key in a network namespace" if isinstance(error, FileNotFoundError) else error.strerror
            raise SetupError(f"sysctl {name} = {value}: {reason}") from None


def set_loopback_up() -> None:
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
    """Pid 1 of a node: reaps, forwards SIGTERM, ends with the node's cmd, or with a runner that did not send `keep`."""

    def __init__(self, channel: socket.socket, main_pid: int | None) -> None:
        self.channel: socket.socket | None = channel
        self.main_pid = main_pid
        self.deadline: float | None = None  # of a SIGTERM's grace, by time.monotonic()
        self.wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # the wakeup fd carries the number

    def run(self) -> int:
        """Serve until the node ends; return the exit status."""
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        if self.channel is not None:
            poller.register(self.channel, select.POLLIN)
        while True:
            status = self._reap()
            if status is not None:
                return status
            remaining_ms = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) * 1000
            events = poller.poll(remaining_ms)
            if not events and self.deadline is not None:
                return 128 + signal.SIGTERM
            for fd, _ in events:
                if fd == self.wake:
                    self._on_signals(os.read(self.wake, 256))
                elif self.channel is not None:
                    poller.unregister(self.channel)
                    if not self.channel.recv(16).startswith(b"keep"):
                        return 0  # the runner is gone: the node ends too
                    self.channel.close()
                    self.channel = None

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers and self.deadline is None:
            self.deadline = time.monotonic() + TERM_GRACE_S
            with suppress(ProcessLookupError):  # the init is alone in the node
                os.kill(-1, signal.SIGTERM)

    def _reap(self) -> int | None:
        """Reap every dead child; return the exit status if the node must end."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return None
                if pid == self.main_pid:
                    return self._on_main_exit(os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            return None if self.deadline is None else 128 + signal.SIGTERM

    def _on_main_exit(self, code: int) -> int:
        if self.channel is not None:
            output = Path("/var/log/cmd.log").read_text(errors="replace").strip().splitlines()
            how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            with suppress(OSError):  # the runner is gone
                send(self.channel, {"error": f"cmd {how}" + (f": {output[-1]}" if output else "")})
        return code if code >= 0 else 128 - code


def _become_init(channel: socket.socket, setup: NodeSetup) -> int:
    os.setsid()
    try:
        mount_private(setup)
        socket.sethostname(setup["hostname"])
        set_sysctls(setup["sysctls"])
        set_loopback_up()
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
    """Read the setup, enter new namespaces, fork their init; return the exit code of this outer process."""
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
        send(
            channel,
            {"error": f"no permission to create namespaces ({error.strerror}): run as root, with CAP_SYS_ADMIN"},
        )
        return 1
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _become_init(channel, setup)
        finally:
            os._exit(status)  # never returns into the outer process's code
    send(channel, {"pid": pid})
    return 0


if __name__ == "__main__":
    sys.exit(main())
