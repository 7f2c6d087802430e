# SPDX-License-Identifier: Apache-2.0
"""`lbctl key`: a rotation at no step of which two nodes refuse each other, and files that it does not touch."""

import itertools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.config.secret import read_channel_keys

Run = Callable[..., tuple[str, str]]
KEY = "00112233445566778899aabbccddeeff"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="chown")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `lbctl key` in this process: its output and its errors."""

    def in_process(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["lbctl", "key", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        return capfd.readouterr()

    return in_process


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cluster.key"


def test_new_key_is_beside_the_configuration_and_closed_to_others(key: Run, file: Path) -> None:
    before = os.umask(0)
    try:
        out, _ = key("new", "-c", file.parent / "lb.yml")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"[0-9a-f]{32}\n", file.read_text())
    assert out.splitlines() == [
        f"{file}: a new key, for root alone",
        "  1. copy the file to the same place on every node",
        "  2. in lb.yml of every node: `members: {key_file: cluster.key}` (relative to lb.yml's folder)",
        "  3. on every node: `lbctl agent reload`, or start it",
    ]
    assert file.read_text().strip() not in out


def test_two_new_keys_differ(key: Run, tmp_path: Path) -> None:
    key("new", tmp_path / "one")
    key("new", tmp_path / "two")
    assert (tmp_path / "one").read_text() != (tmp_path / "two").read_text()


def test_a_rotation_at_whose_every_step_all_nodes_accept_each_other(key: Run, file: Path) -> None:
    key("new", file)
    files = [read_channel_keys(file, "")]
    for step in ("rotate", "promote", "forget"):
        key(step, file)
        files.append(read_channel_keys(file, ""))
    assert [len(keys) for keys in files] == [1, 2, 2, 1]
    assert files[0] != files[3]
    for earlier, later in itertools.pairwise(files):  # some nodes have the file of a step, the others that before it
        assert earlier[0] in later
        assert later[0] in earlier
    assert files[0][0] not in files[3], "the old key is forgotten"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == [file.name]


def test_each_step_prints_those_that_are_left(key: Run, file: Path) -> None:
    copy = "copy the file to every node, and run `lbctl agent reload` on each"
    promote = f"when all nodes have it, run here: lbctl key promote {file}"
    forget = f"when all nodes have that, run here: lbctl key forget {file}"
    key("new", file)

    def steps(command: str) -> list[str]:
        return [line.split(". ", 1)[1] for line in key(command, file)[0].splitlines()[1:]]

    assert steps("rotate") == [copy, promote, copy, forget, copy]
    assert steps("promote") == [copy, forget, copy]
    assert steps("forget") == [copy]


def test_a_rotation_can_be_undone(key: Run, file: Path) -> None:
    key("new", file)
    before = file.read_text()
    for step in ("rotate", "promote", "promote", "forget"):
        key(step, file)
    assert file.read_text() == before


def test_file_behind_a_link_is_replaced_not_the_link(key: Run, file: Path) -> None:
    target = file.with_name("target")
    key("new", target)
    file.symlink_to("target")
    key("rotate", file)
    assert file.is_symlink()
    assert len(read_channel_keys(target, "")) == 2


@pytest.mark.parametrize("kind", ["file", "link to nothing", "folder"])
def test_new_overwrites_nothing(key: Run, file: Path, kind: str) -> None:
    if kind == "file":
        file.write_text("precious")
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("absent")
    _, err = key("new", file, code=1)
    assert err == (
        f"lbctl: {file}: exists already; `lbctl key rotate {file}` exchanges a key that is in use, otherwise remove "
        "the file\n"
    )
    assert kind != "file" or file.read_text() == "precious"
    assert not (file.parent / "absent").exists()


def test_new_without_a_folder(key: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    _, err = key("new", folder / "k", code=1)
    assert err == f"lbctl: {folder}/k: No such file or directory; make its folder: mkdir -p '{folder}'\n"


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("rotate", None, "No such file or directory; make one with `lbctl key new {file}`"),
        ("promote", None, "No such file or directory"),
        ("forget", None, "No such file or directory"),
        ("rotate", f"{KEY}\n{KEY[::-1]}\n", "contains two keys, so a rotation has begun; `lbctl key promote` lets"),
        ("promote", f"{KEY}\n", "contains one key; begin with `lbctl key rotate {file}`"),
        ("forget", f"{KEY}\n", "contains one key; begin with `lbctl key rotate {file}`"),
        ("rotate", "precious\n", "line 1 is not a key of 32 hex digits; copy that of another node"),
        ("forget", f"{KEY}\n" * 3, "contains 3 keys, not one or two"),
    ],
)
def test_a_file_that_cannot_take_the_step_is_left_alone(
    key: Run, file: Path, command: str, content: str | None, message: str
) -> None:
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    out, err = key(command, file, code=1)
    assert out == ""
    assert err.startswith(f"lbctl: {file}: {message.format(file=file)}")
    assert err.count("\n") == 1
    assert KEY not in err
    assert content is None or file.read_text() == content


def test_a_file_that_others_can_read_is_refused(key: Run, file: Path) -> None:
    key("new", file)
    file.chmod(0o644)
    assert key("rotate", file, code=1)[1] == f"lbctl: {file}: other users have access (mode 644); chmod 600 {file}\n"


def test_a_fifo_does_not_block(key: Run, file: Path) -> None:
    os.mkfifo(file, 0o600)
    assert key("rotate", file, code=1)[1] == f"lbctl: {file}: is a FIFO, not a file\n"


@root_only
def test_a_file_of_another_user_is_refused(key: Run, file: Path) -> None:
    key("new", file)
    os.chown(file, 61_234, 0)
    assert "belongs to uid 61234; chown root" in key("promote", file, code=1)[1]
