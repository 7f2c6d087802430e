# SPDX-License-Identifier: Apache-2.0
"""The state that an agent saves is loaded unchanged, or not at all."""

import json
import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from agent.announcing.export_status import ExportStatus, StatusEntry
from agent.announcing.hold_down import FlapRecord
from agent.model import State
from agent.node.saved_state import SavedState, StateFile, load
from agent.table.epoch import EpochUse

A = IPv4Address("10.0.0.11")
SAVED = SavedState(
    healthy=frozenset({"web"}),
    admin_state=State.DRAINING,
    flaps={IPv4Address("192.0.2.1"): FlapRecord(7.5, 4.0, 2), IPv6Address("2001:db8:99::1"): FlapRecord(8.0, 2.0, 1)},
    export_statuses=(
        StatusEntry(ExportStatus("192.0.2.1", "10.0.0.1", "announced", "yes", "up", "healthy"), 1_700_000_000.5),
    ),
    announced_once=frozenset({IPv4Address("192.0.2.2")}),
    vips=frozenset({IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")}),
    denied=frozenset({IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:bad::/48")}),
    boot=(1 << 64) - 1,
    use=EpochUse(0x1234, alternating=True),
    drained=frozenset({"web"}),
    weights=(("alt", 5),),
)


def test_saved_state_is_loaded_unchanged(tmp_path: Path) -> None:
    StateFile(tmp_path / "state.json", SavedState()).save(SAVED)
    assert load(tmp_path / "state.json") == SAVED
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_the_state_of_another_release_is_read(tmp_path: Path) -> None:
    """A later one has more keys, a former one has fewer."""
    path = tmp_path / "state.json"
    StateFile(path, SavedState()).save(SAVED)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"added_later": [1]}))
    assert load(path) == SAVED
    first = ("healthy", "admin_state", "announced_once", "vips")
    path.write_text(json.dumps({key: whole[key] for key in first}))
    former = load(path)
    assert (former.healthy, former.vips, former.boot) == (SAVED.healthy, SAVED.vips, 0)


def test_missing_file(tmp_path: Path) -> None:
    assert load(tmp_path / "state.json") == SavedState()


@pytest.mark.parametrize(
    "key",
    ["healthy", "admin_state", "flaps", "export_statuses", "announced_once", "vips", "denied", "boot"],
)
@pytest.mark.parametrize("value", [None, 3, "x", [None], [[1]], {"a": 1}, {"192.0.2.1": [1]}])
def test_broken_file_is_the_same_as_none(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "state.json"
    StateFile(path, SavedState()).save(SAVED)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    loaded = load(path)
    assert loaded == SavedState() or isinstance(loaded, SavedState)
    path.write_text(path.read_text()[:-5])
    assert load(path) == SavedState()


HUGE = ["1e400", "-1e400", "1" + "0" * 400, "1" * 5000, "NaN", "Infinity", "-1", '"7"', "true", "1.5e300"]
NUMBERS = {
    "boot": "{}",
    "use": "[{}, true]",
    "weights": '{{"web": {}}}',
    "flaps": '{{"192.0.2.1": [{}, 2.0, 1]}}',
    "export_statuses": '[{{"vip": "", "peer": "", "desired": "", "out": "", "session": "", "why": "", "since": {}}}]',
}


@pytest.mark.parametrize("number", HUGE, ids=[number[:10] for number in HUGE])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_out_of_range_are_the_same_as_none(tmp_path: Path, key: str, number: str) -> None:
    path = tmp_path / "state.json"
    StateFile(path, SavedState()).save(SAVED)
    rest = json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key})
    path.write_text(f'{rest[:-1]}, "{key}": {NUMBERS[key].format(number)}}}')
    assert load(path) == SavedState()
    path.write_text(f'{rest[:-1]}, "{key}": {NUMBERS[key].format(7)}}}')
    assert load(path).healthy == {"web"}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"healthy":' * 100_000, "\x00", '"\ud800"', "[]", "7"])
def test_texts_that_are_not_a_state(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert load(tmp_path / "state.json") == SavedState()


def test_only_this_user_has_access(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    (tmp_path / "state.json.new").symlink_to(tmp_path / "elsewhere")
    StateFile(path, SavedState()).save(SAVED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["state.json"], "a planted link is replaced, not followed"


def test_planted_files_are_the_same_as_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    StateFile(path, SavedState()).save(SAVED)
    path.chmod(0o666)
    assert load(path) == SavedState(), "others can write it"
    path.chmod(0o644)
    assert load(path) == SAVED
    (tmp_path / "link").symlink_to(path)
    assert load(tmp_path / "link") == SavedState()
    if os.geteuid() == 0:
        os.chown(path, 61_234, 0)
        assert load(path) == SavedState(), "another user's"
    path.unlink()
    os.mkfifo(path)
    assert load(path) == SavedState()
