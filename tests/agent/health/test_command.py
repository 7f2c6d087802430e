# SPDX-License-Identifier: Apache-2.0
"""Probes by a program: its user, its environment, its end, and what it leaves behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.service import check
from support.waiting import wait_for

from agent.health.probe import probe_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")


def run(*command: str, user: str = "nobody", timeout_s: float = 60.0) -> tuple[bool, str]:
    """One probe, which leaves no zombie."""
    settings = check(type="exec", command=list(command), user=user, interval_s=60, timeout_s=timeout_s)
    before = children()

    async def main() -> tuple[bool, str]:
        answer = await probe_of(None, settings)()
        async with asyncio.timeout(60):
            while children() != before:
                await asyncio.sleep(0.01)
        return answer

    return asyncio.run(main())


def shell(script: str, timeout_s: float = 60.0) -> tuple[bool, str]:
    return run("/bin/sh", "-c", script, timeout_s=timeout_s)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def processes(argument: str) -> list[str]:
    """The processes with an argument that no other test uses."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in words:
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("exit 0", (True, "exit status 0")),
        ("echo warm; exit 0", (True, "exit status 0")),
        ("exit 3", (False, "exit status 3")),
        ("echo replica lags; echo more; exit 2", (False, "exit status 2: replica lags")),
        ("printf '\\033[2J\\007x' >&2; exit 1", (False, "exit status 1: \\x1b[2J\\x07x")),
        ("kill -SEGV $$", (False, "killed by SIGSEGV")),
    ],
)
def test_endings(script: str, answer: tuple[bool, str]) -> None:
    assert shell(script) == answer


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    good, why = run("/bin/ls", "/nowhere; touch x", "$(id)")
    assert not good
    # coreutils 9.7 names itself without its folder
    assert why.replace("/bin/ls", "ls").startswith("exit status 2: ls: cannot access '/nowhere; touch x': No such file")


def test_user_groups_and_environment() -> None:
    script = 'test "$(id -u) $(id -g) $(id -G)" = "65534 65534 65534" && test "$(pwd)" = / && ! read -r _'
    assert shell(script) == (True, "exit status 0")
    names = (
        r"env | cut -d= -f1 | grep -vxE 'PWD|OLDPWD|SHLVL|_' | sort | tr '\n' ' '; exit 1"  # those are the shell's own
    )
    assert shell(names) == (False, "exit status 1: LANG PATH")


@pytest.mark.parametrize(
    ("command", "user", "why"),
    [
        (
            "/nowhere/check",
            "nobody",
            "exit status 127: setpriv: failed to execute /nowhere/check: No such file or directory",
        ),
        ("/etc/passwd", "nobody", "exit status 126: setpriv: failed to execute /etc/passwd: Permission denied"),
        ("/bin/true", "noone", "there is no user noone here; create it or name another"),
    ],
)
def test_what_cannot_run(command: str, user: str, why: str) -> None:
    assert run(command, user=user) == (False, why)


def test_the_whole_group_is_killed_at_the_timeout() -> None:
    started = time.monotonic()
    answer = shell("trap '' TERM; sleep 987.1 & sleep 987.1", timeout_s=0.3)
    assert answer == (False, "/bin/sh did not end in 0.3 s")
    assert time.monotonic() - started < 5
    wait_for(lambda: not processes("987.1"), "the group's end")


def test_what_is_left_behind_is_killed_at_the_end() -> None:
    """It holds the output open too, which must not delay the answer."""
    assert shell("sleep 987.2 & exit 0") == (True, "exit status 0")
    wait_for(lambda: not processes("987.2"), "the end of the background process")


@pytest.mark.slow
def test_a_program_that_writes_without_end_is_stopped_by_its_pipe() -> None:
    cpu = time.thread_time()
    assert run("/usr/bin/yes", timeout_s=0.5) == (False, "/usr/bin/yes did not end in 0.5 s")
    assert time.thread_time() - cpu < 0.4
    good, why = shell("head -c 60000 /dev/zero; exit 1")
    assert not good
    assert len(why) < 140


def test_a_canceled_check_leaves_no_process() -> None:
    async def main() -> None:
        settings = check(type="exec", command=["/bin/sleep", "987.3"], user="nobody", interval_s=60, timeout_s=60)
        task = asyncio.create_task(probe_of(None, settings)())
        while not processes("987.3"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while processes("987.3"):
            await asyncio.sleep(0.01)

    before = children()
    asyncio.run(asyncio.wait_for(main(), 20))
    assert children() == before


AGENT = """
import asyncio
from support.service import check
from agent.health.probe import probe_of
settings = check(type="exec", command=["/bin/sleep", "987.5"], user="nobody", interval_s=60, timeout_s=60)
asyncio.run(probe_of(None, settings)())
"""


def test_an_agent_that_is_killed_leaves_no_process() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", AGENT], env=environment) as agent:
        wait_for(lambda: processes("987.5"), "the program")
        agent.kill()
    wait_for(lambda: not processes("987.5"), "its end")


def test_no_second_process_while_one_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()

    async def main() -> str:
        probe = probe_of(None, check(type="exec", command=["/bin/sleep", "987.4"], user="nobody", timeout_s=0.1))
        monkeypatch.setattr("agent.health.command.os.killpg", lambda *_: None)
        await probe()
        _, why = await probe()
        monkeypatch.undo()
        os.killpg(int(why.split()[1]), signal.SIGKILL)
        async with asyncio.timeout(60):
            while children() != before:
                await asyncio.sleep(0.01)
        assert not (await probe())[1].startswith("process")  # it is started again
        return why

    assert asyncio.run(main()).endswith(" of an earlier check cannot be killed")
