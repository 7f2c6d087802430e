# SPDX-License-Identifier: Apache-2.0
"""Lines of ExaBGP itself: warnings and errors only, printable, each with its level if journald reads them."""

import os
import socket
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp.renderer import render_env

EXABGP = """
from exabgp.environment import getenv
from exabgp.logger import log
from bgp.exabgp.connect import install
install()
log.init(getenv())
log.info(lambda: "Thank you for using ExaBGP", "welcome")
log.warning(lambda: "closing \\x1b[2J", "outgoing-1")
log.error(lambda: "no helper", "process")
"""


def written(tmp_path: Path, is_journald: bool) -> list[str]:
    """Return what ExaBGP logs to stderr, a socket as that of journald."""
    peer = NeighborConfig(IPv4Address("127.0.0.2"), 65000, IPv4Address("127.0.0.1"))
    env_file = tmp_path / "exabgp.env"
    env_file.write_text(render_env(SpeakerConfig(65001, IPv4Address("10.0.0.11"), (peer,))))
    here, there = socket.socketpair()
    with here, there:
        status = os.fstat(there.fileno())
        env = os.environ | {"EXABGP_ENVFILE": str(env_file), "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        if not is_journald:
            env["JOURNAL_STREAM"] = "1:1"
        subprocess.run([sys.executable, "-c", EXABGP], stderr=there, env=env, check=True)
        return here.recv(10_000).decode().splitlines()


@pytest.mark.parametrize("is_journald", [True, False])
def test_lines_of_exabgp_itself(tmp_path: Path, is_journald: bool) -> None:
    warning, error = ("<4>", "<3>") if is_journald else ("", "")
    assert written(tmp_path, is_journald) == [
        f"{warning}outgoing-1      closing \\x1b[2J",
        f"{error}process         no helper",
    ]
