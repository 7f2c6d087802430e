# SPDX-License-Identifier: Apache-2.0
"""Probes by a program: no shell, another user, a process group that never outlives its probe.

setpriv changes the user: it is a small process, so that the agent need not fork itself with all its memory, and an
executable on a file system that hangs does not stop the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping

from agent.config.health import ExecCheckConfig
from agent.health.failure import ProbeFailed, shown

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
OUTPUT_LIMIT = 64 * 1024
"""Bytes: the capacity of a pipe (pipe(7)). It is read once, after the program: one that writes more waits in vain."""


class Command:
    """One check's program. At most one process group of it exists."""

    def __init__(self, check: ExecCheckConfig, environment: Mapping[str, str]) -> None:
        """`environment`: what the program gets in it beside ENVIRONMENT."""
        self._check = check
        self._environment = {**ENVIRONMENT, **environment}
        self._running: subprocess.Popen[bytes] | None = None

    async def probe(self) -> str:
        """Run the program to its end. Raises ProbeFailed, OSError; kills the process group if it is canceled."""
        if self._running is not None:  # killed, but in a system call that cannot be interrupted
            raise ProbeFailed(f"process {self._running.pid} of an earlier check cannot be killed")
        user = await asyncio.to_thread(user_of, self._check.user)  # which may ask a directory over the network
        ended: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        process = self._start(user, ended)
        try:
            code, output = await ended
        except asyncio.CancelledError:
            _kill(process)
            raise
        if code == 0:
            return "exit status 0"
        lines = output.strip().splitlines()
        raise ProbeFailed(_ending(code) + (f": {shown(lines[0])}" if lines else ""))

    def _start(self, user: pwd.struct_passwd, ended: asyncio.Future[tuple[int, bytes]]) -> subprocess.Popen[bytes]:
        """Start the program; its exit code and output become the result of `ended`."""
        # --pdeathsig: an agent that is killed takes its checks with it.
        setpriv = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
        process = self._running = subprocess.Popen(
            [*setpriv, "--no-new-privs", "--pdeathsig=KILL", "--", *self._check.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd="/",
            start_new_session=True,
        )
        loop = asyncio.get_running_loop()
        try:
            exited = os.pidfd_open(process.pid)
        except OSError:  # no file descriptor is left
            _kill(process)
            self._running = None
            process.wait()
            raise

        def reap() -> None:
            loop.remove_reader(exited)
            os.close(exited)
            _kill(process)  # what it left behind; before wait, which frees the number
            self._running = None
            code, output = process.wait(), _read(process)
            if not ended.done():
                ended.set_result((code, output))

        loop.add_reader(exited, reap)
        return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, unless its leader was waited for: then the number may be another's."""
    if process.returncode is None:
        with contextlib.suppress(PermissionError):  # without CAP_KILL; the next probe reports it
            os.killpg(process.pid, signal.SIGKILL)


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """Return what is in the pipe, and close it."""
    assert process.stdout is not None
    with process.stdout as pipe:
        os.set_blocking(pipe.fileno(), False)
        try:
            return os.read(pipe.fileno(), OUTPUT_LIMIT)
        except BlockingIOError:  # empty, and open in a process that left the group
            return b""


def user_of(name: str) -> pwd.struct_passwd:
    """Return the user of a check. Raises ProbeFailed if there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ProbeFailed(f"there is no user {name} here; create it or name another") from None


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"
