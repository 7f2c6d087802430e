# SPDX-License-Identifier: Apache-2.0
"""What a reload has ExaBGP validate: exabgp.conf, unless it is the one that is in place."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from bgp.bfd.config import CONFIG_NAME, encode_peers
from bgp.errors import BgpError
from bgp.exabgp.config import NeighborConfig, SpeakerConfig
from bgp.exabgp.reload import check, reload
from bgp.exabgp.renderer import ALLOW_NAME, render_allowlist, render_env
from bgp.exabgp.run_dir import make_spare, write_file
from bgp.exabgp.speaker import CONF_NAME, ENV_NAME, RELOADED, render_config

PEER = NeighborConfig(IPv4Address("127.0.0.2"), 65000, IPv4Address("127.0.0.1"), 9)
GROUP = 2  # any but root's


class Validated(Exception):
    """ExaBGP was asked."""


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpeakerConfig]:
    """The configuration of an ExaBGP that has the lock; to have one validated is an error."""

    def refuse(*_: object) -> None:
        raise Validated

    monkeypatch.setattr("bgp.exabgp.reload.prepare", refuse)
    config = SpeakerConfig(65001, IPv4Address("10.0.0.11"), (PEER,), run_dir=tmp_path)
    files = {
        CONF_NAME: render_config(config),
        ENV_NAME: render_env(config),
        ALLOW_NAME: render_allowlist(config),
        CONFIG_NAME: encode_peers(config.bfd_peers).decode(),
    }
    for name, text in files.items():
        write_file(tmp_path / name, text.encode(), GROUP)
    for name in RELOADED:
        make_spare(tmp_path / name, GROUP)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield config


def test_another_allowlist_is_taken_over_without_a_validation(running: SpeakerConfig) -> None:
    new = replace(running, allow=(IPv4Network("10.99.0.0/24"),))
    check(new)
    assert reload(new) == os.getpid()
    assert (new.run_dir / ALLOW_NAME).read_text() == render_allowlist(new) != render_allowlist(running)


@pytest.mark.parametrize(
    "change", [{"peers": (replace(PEER, hold_time_s=30),)}, {"user": "another"}], ids=lambda change: next(iter(change))
)
def test_what_exabgp_itself_reads_is_validated(running: SpeakerConfig, change: dict[str, object]) -> None:
    new = replace(running, allow=(IPv4Network("10.99.0.0/24"),), **change)  # type: ignore[arg-type]
    for apply in (check, reload):
        with pytest.raises(Validated):
            apply(new)
    assert (running.run_dir / ALLOW_NAME).read_text() == render_allowlist(running)


def test_all_is_validated_while_exabgp_does_not_run(running: SpeakerConfig) -> None:
    """The next one may be of another release than the one that found the file valid."""
    (running.run_dir / "lock").unlink()
    new = replace(running, allow=(IPv4Network("10.99.0.0/24"),))
    with pytest.raises(Validated):
        check(new)
    with pytest.raises(BgpError, match="does not run here"):
        reload(new)
