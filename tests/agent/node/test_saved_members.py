# SPDX-License-Identifier: Apache-2.0
"""The members that an agent saves are loaded unchanged, or not at all."""

import asyncio
import json
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from agent.model import Member, Share, State
from agent.node.saved_members import MemberFile, load

MEMBERS = (
    Member(
        IPv4Address("10.0.0.11"),
        (9, 8),
        {
            "192.0.2.10:443/tcp": Share(100, 50, State.UP),
            "[2001:db8:99::1]:any/udp": Share(1, 0, State.DRAINING, announced=False),
        },
        True,
        12.5,
        "does not answer",
        IPv6Address("2001:db8::1"),
        (1 << 64) - 1,
        77,
        0.0,
        10.25,
        "its state changed to draining",
    ),
    Member(IPv4Address("10.0.0.12"), (9,), {}, False, 0.0, "answers, and publishes what it serves"),
)


def save(path: Path, *versions: tuple[Member, ...]) -> None:
    file = MemberFile(path)
    for members in versions:
        file.save(members)
        file.flush()


def test_saved_members_are_loaded_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "members.json"
    save(path, MEMBERS)
    assert load(path) == MEMBERS
    changed = (MEMBERS[0], replace(MEMBERS[1], lost=True))
    save(path, MEMBERS, changed, changed[:1])
    assert load(path) == changed[:1]
    assert [one.name for one in tmp_path.iterdir()] == ["members.json"]


def test_a_thread_writes_the_latest_members(tmp_path: Path) -> None:
    async def run() -> None:
        file = MemberFile(tmp_path / "members.json")
        task = asyncio.create_task(file.run())
        file.save(MEMBERS[:1])
        file.save(MEMBERS)
        while load(tmp_path / "members.json") != MEMBERS:
            await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_end_waits_for_a_thread_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload ends the loop while its thread writes; the next agent reads the file at once."""
    began, path = threading.Event(), tmp_path / "members.json"

    def replace_slowly(source: Path, target: Path) -> None:
        began.set()
        time.sleep(0.1)
        source.rename(target)

    async def run() -> None:
        file = MemberFile(path)
        task = asyncio.create_task(file.run())
        file.save(MEMBERS)
        await asyncio.to_thread(began.wait)
        task.cancel()
        await asyncio.wait([task])
        file.flush()
        assert load(path) == MEMBERS

    monkeypatch.setattr("agent.private_file.os.replace", replace_slowly)
    asyncio.run(asyncio.wait_for(run(), 30))


def test_failure_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run" / "members.json"
    file = MemberFile(path)
    file.save(MEMBERS[:1])
    file.flush()
    file.save(MEMBERS)
    file.flush()
    assert len(caplog.records) == 1
    assert "a restarted agent will not know its members" in caplog.text
    path.parent.mkdir()
    file.flush()
    assert load(path) == MEMBERS, "the next attempt writes what the last one could not"


@pytest.mark.parametrize("text", ["", "3", "[3]", "[null]", "{}", '[{"address": "x"}]', json.dumps([{"address": 1}])])
def test_broken_file_is_the_same_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "members.json"
    assert load(path) == ()
    path.write_text(text)
    assert load(path) == ()
    save(path, MEMBERS)
    path.write_text(path.read_text()[:-5])
    assert load(path) == ()


@pytest.mark.parametrize("number", ["1e400", "1" + "0" * 400, "NaN", "-1", '"7"', "4294967296e9"])
@pytest.mark.parametrize("key", ["since", "boot", "version", "epochs", "silent_since", "changed", "shares"])
def test_numbers_out_of_range_are_the_same_as_none(tmp_path: Path, key: str, number: str) -> None:
    path = tmp_path / "members.json"
    save(path, MEMBERS[:1])
    entry = json.loads(path.read_text())[0]
    wrapped = {"epochs": f"[{number}]", "shares": f'{{"192.0.2.10:443/tcp": [{number}, 0, "up", true]}}'}.get(
        key, number
    )
    rest = json.dumps({name: value for name, value in entry.items() if name != key})
    path.write_text(f'[{rest[:-1]}, "{key}": {wrapped}}}]')
    assert load(path) == ()


def test_member_without_an_epoch_is_the_same_as_none(tmp_path: Path) -> None:
    save(tmp_path / "members.json", (replace(MEMBERS[0], epochs=()),))
    assert load(tmp_path / "members.json") == ()


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"shares":' * 100_000])
def test_deep_nesting_is_the_same_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "members.json").write_text(text)
    assert load(tmp_path / "members.json") == ()


def test_only_this_user_has_access(tmp_path: Path) -> None:
    path = tmp_path / "members.json"
    save(path, MEMBERS)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o622)
    assert load(path) == ()
