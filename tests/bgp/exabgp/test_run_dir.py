# SPDX-License-Identifier: Apache-2.0
"""Files in the run directory are replaced at once, and keep their group and mode without any right to give them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bgp.errors import BgpError
from bgp.exabgp.run_dir import clear_spare, exchange_file, lock_holder, make_spare, write_file
from bgp.file_watch import WatchedFile

GROUP = 2  # any but root's


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "exabgp.conf"
    write_file(path, b"old, with a password", GROUP)
    make_spare(path, GROUP)
    return path


def test_exchange_keeps_group_and_mode_without_a_capability(file: Path) -> None:
    code = (
        f"from pathlib import Path; from bgp.exabgp.run_dir import exchange_file as e; e(Path({str(file)!r}), b'new')"
    )
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    subprocess.run([*drop, sys.executable, "-c", code], check=True, timeout=30)
    status = file.stat()
    assert (file.read_bytes(), status.st_gid, status.st_mode & 0o777) == (b"new", GROUP, 0o640)
    clear_spare(file)
    assert file.with_name(".exabgp.conf.spare").read_bytes() == b"", "no password is left behind"
    exchange_file(file, b"newer")
    assert file.read_bytes() == b"newer"


def test_reader_of_the_old_file_sees_all_of_it(file: Path) -> None:
    with file.open("rb") as reader:
        exchange_file(file, b"new")
        assert reader.read() == b"old, with a password"


def test_without_a_spare_file_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(BgpError, match="of an earlier release; restart it: `systemctl restart lb-bgp`"):
        exchange_file(tmp_path / "allow", b"")


def test_planted_spare_is_not_written(file: Path, tmp_path: Path) -> None:
    spare, target = file.with_name(".exabgp.conf.spare"), tmp_path / "target"
    target.write_bytes(b"another's")
    spare.unlink()
    spare.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        exchange_file(file, b"new")
    spare.unlink()
    spare.write_bytes(b"")
    os.chown(spare, 65534, GROUP)
    with pytest.raises(BgpError, match="is not a file of this user"):
        exchange_file(file, b"new")
    assert (file.read_bytes(), target.read_bytes()) == (b"old, with a password", b"another's")


def test_nothing_holds_the_lock_of_a_dead_process(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "lock") is None
    (tmp_path / "lock").write_text("17\n")
    assert lock_holder(tmp_path / "lock") is None


def test_touch_is_noticed_without_opening_the_file(file: Path) -> None:
    watched = WatchedFile(file)
    assert not watched.was_touched(), "what is there at the start was read already"
    os.utime(file, (1, 1))
    assert watched.was_touched()
    assert not watched.was_touched()
    exchange_file(file, b"new")
    assert watched.was_touched()
    file.unlink()
    assert not watched.was_touched()
