# SPDX-License-Identifier: Apache-2.0
"""The addresses that outlive a reboot are loaded unchanged, or not at all."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.model import Member
from agent.node.known_nodes import KnownNodes, load

A, B = IPv4Address("10.0.0.11"), IPv4Address("10.0.0.12")


def members(*addresses: IPv4Address) -> tuple[Member, ...]:
    return tuple(Member(address, (1,), {}, False, 0.0, "") for address in addresses)


def test_saved_addresses_are_loaded_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    KnownNodes(path).save(members(B, A))
    assert KnownNodes(path).addresses == load(path) == {A, B}
    written = path.stat().st_mtime_ns
    KnownNodes(path).save(members(A, B))
    assert path.stat().st_mtime_ns == written
    KnownNodes(path).save(())
    assert load(path) == frozenset()


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', '["10.0.0.300"]', "[null]", "7", "[" * 10_000])
def test_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(text)
    path.chmod(0o600)
    assert load(path) == frozenset()


def test_failure_to_write_is_logged_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    folder.write_text("a file is in the way")
    known = KnownNodes(folder / "nodes.json")
    known.save(members(A))
    known.save(members(A))
    assert len(caplog.records) == 1
    folder.unlink()
    known.save(members(A))
    assert load(folder / "nodes.json") == {A}


def test_the_folder_is_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """systemd makes it; an agent that is started by hand, or in a lab, does."""
    KnownNodes(tmp_path / "lib" / "anylb" / "nodes.json").save(members(A))
    assert load(tmp_path / "lib" / "anylb" / "nodes.json") == {A}
    assert caplog.records == []
