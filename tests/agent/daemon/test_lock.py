# SPDX-License-Identifier: Apache-2.0
"""The lock of the agent: one holder, named in the refusal, free again after it."""

import os
from pathlib import Path

import pytest

from agent.daemon.lock import only_agent
from agent.errors import AgentError


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
    with pytest.raises(AgentError, match="the agent runs as root"), only_agent(tmp_path / "run" / "agent.lock"):
        pass
