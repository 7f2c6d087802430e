# SPDX-License-Identifier: Apache-2.0
"""lbctl support: an archive with every part or the reason why it is missing, and without secrets."""

import errno
import stat
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import main
from agent.cli.support import READ, SYSTEM, _contents, output_of


@pytest.mark.slow
def test_the_archive_has_all_parts_and_no_secret(tmp_path: Path) -> None:
    key = "0123456789abcdef0123456789abcdef"
    (tmp_path / "cluster.key").write_text(key)
    config = tmp_path / "lb.yml"
    config.write_text("members: {key_file: cluster.key}\n")
    target = tmp_path / "out.tar.gz"
    arguments = ["support", str(target), "-c", str(config), "-s", str(tmp_path / "none.sock")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "look through it before you send it on" in done.output
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as archive:
        parts = {Path(one.name).name: archive.extractfile(one) for one in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in parts.items() if file is not None}
    assert set(texts) == {"lb.yml", "doctor.txt", *(f"{name}.txt" for name, *_ in (*READ, *SYSTEM))}
    assert "key_file: cluster.key" in texts["lb.yml"]
    assert "no agent answers" in texts["status.txt"]
    assert texts["version.txt"].startswith("anylb ")
    assert "lo" in texts["addresses.txt"]
    assert not any(key in text for text in texts.values())


@pytest.mark.parametrize(("user", "hint"), [(0, ""), (65534, "lbctl: not root, so parts are missing: run it as root")])
def test_who_is_not_root_learns_that_parts_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, hint: str
) -> None:
    monkeypatch.setattr("agent.cli.support._contents", lambda *_: iter([("lb.yml", b"x")]))
    monkeypatch.setattr("os.geteuid", lambda: user)
    done = CliRunner().invoke(main, ["support", str(tmp_path / "out.tar.gz")])
    assert done.exit_code == 0
    assert done.stderr.startswith(hint)
    assert bool(done.stderr) is bool(hint)


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out.tar.gz"
    target.write_text("mine")
    done = CliRunner().invoke(main, ["support", str(target)])
    assert done.exit_code == 1
    assert target.read_text() == "mine"
    assert "File exists; name a new file" in done.output
    assert CliRunner().invoke(main, ["support", str(tmp_path / "none/x.tar.gz")]).exit_code == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_half_of_an_archive_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def contents(*_: object) -> Iterator[tuple[str, bytes]]:
        yield "lb.yml", b"x"
        raise error

    monkeypatch.setattr("agent.cli.support._contents", contents)
    target = tmp_path / "out.tar.gz"
    done = CliRunner().invoke(main, ["support", str(target)])
    assert done.exit_code == (1 if isinstance(error, OSError) else 130)
    assert not target.exists()


def test_a_device_is_not_read_as_the_configuration() -> None:
    assert dict(islice(_contents(Path("/dev/null"), Path("none")), 1)) == {
        "lb.yml": b"/dev/null: is a device, not a file\n"
    }


def test_a_command_that_is_missing_is_named() -> None:
    assert b"no-such-command" in output_of(["no-such-command"])
