# SPDX-License-Identifier: Apache-2.0
"""The lock of the agent: one holder, named in the refusal, free again after it, and out of reach of other users."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import pytest

from agent.daemon.lock import only_agent
from agent.errors import AgentError

FOREIGN_UID = 61_234
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="another user")

HOLD = """\
import fcntl, os, sys
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
try:
    file = open(sys.argv[1])
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("locked", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
sys.stdin.read()
"""


@contextmanager
def intruder(lock: Path) -> Iterator[str]:
    """Have an unprivileged process try to lock the file; yield what came of it, while it lives."""
    argv = [sys.executable, "-S", "-c", HOLD, str(lock), str(FOREIGN_UID)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder as systemd makes it, below folders that everyone may enter."""
    temporary = Path(tempfile.gettempdir())
    for folder in takewhile(lambda one: one != temporary, (tmp_path, *tmp_path.parents[:-1])):
        folder.chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o755)
    return tmp_path / "run"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_second_agent_is_refused_and_the_first_named(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "agent.lock"
    with only_agent(lock):
        assert lock.read_text() == str(os.getpid())
        with (
            pytest.raises(AgentError, match=rf"another agent \(pid {os.getpid()}\) runs on this node"),
            only_agent(lock),
        ):
            pass
    with only_agent(lock):
        pass


def test_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(AgentError, match=f"{tmp_path}/run: File exists"), only_agent(tmp_path / "run" / "agent.lock"):
        pass


def test_folder_and_file_are_for_one_user(tmp_path: Path) -> None:
    with only_agent(tmp_path / "run" / "agent.lock"):
        assert mode(tmp_path / "run") == 0o700
        assert mode(tmp_path / "run" / "agent.lock") == 0o600


def test_what_is_there_is_closed_to_others(run: Path) -> None:
    (run / "agent.lock").write_text("7")
    (run / "agent.lock").chmod(0o666)
    with only_agent(run / "agent.lock"):
        assert mode(run) == 0o700
        assert mode(run / "agent.lock") == 0o600


@root_only
def test_another_user_cannot_lock_it(run: Path) -> None:
    lock = run / "agent.lock"
    with only_agent(lock):
        pass
    with intruder(lock) as outcome:
        assert outcome == "Permission denied"
    run.chmod(0o755)  # as systemd leaves the folder before the agent's next start
    with intruder(lock) as outcome:
        assert outcome == "Permission denied"


@root_only
def test_a_lock_that_another_user_holds_is_replaced(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = run / "agent.lock"
    lock.write_text("7")
    lock.chmod(0o644)  # as agents made it before
    with intruder(lock) as outcome:
        assert outcome == "locked"
        with only_agent(lock):
            assert lock.read_text() == str(os.getpid())
            with pytest.raises(AgentError, match="another agent"), only_agent(lock):
                pass
    assert "which is no agent; replacing the file" in caplog.text


def test_an_agent_of_before_is_no_intruder(run: Path) -> None:
    lock = run / "agent.lock"
    with only_agent(lock):
        lock.chmod(0o644)
        with pytest.raises(AgentError, match=rf"another agent \(pid {os.getpid()}\)"), only_agent(lock):
            pass


@root_only
def test_folder_of_another_user(run: Path) -> None:
    os.chown(run, FOREIGN_UID, FOREIGN_UID)
    with pytest.raises(AgentError, match=rf"{run}: belongs to uid {FOREIGN_UID}; remove it"), only_agent(run / "lock"):
        pass


@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_not_followed(run: Path, tmp_path: Path, dangling: bool) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_text("precious")
    (run / "agent.lock").symlink_to(target)
    with pytest.raises(AgentError, match=r"agent\.lock: is a symbolic link; remove it"), only_agent(run / "agent.lock"):
        pass
    assert not target.exists() if dangling else target.read_text() == "precious"
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(AgentError, match="link: is a symbolic link; remove it"), only_agent(tmp_path / "link" / "lock"):
        pass


def test_a_fifo_blocks_nothing(run: Path) -> None:
    os.mkfifo(run / "agent.lock")
    with pytest.raises(AgentError, match=r"agent\.lock: is a FIFO, not a file"), only_agent(run / "agent.lock"):
        pass
