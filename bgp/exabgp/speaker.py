# SPDX-License-Identifier: Apache-2.0
"""ExaBGP as a process of its own: its configuration validated and written, and the exec that becomes it.

Owns the run directory and the start. What is in the configuration is settings.py's, having it read anew reload.py's,
and what ExaBGP is told while it runs the relay's (reconciler.py).

    RUN_DIR                root, mode 1775, group of the BGP user: it may add its socket, and touch nothing of root's
      lock                 held (flock) as long as this ExaBGP lives; its process id
      exabgp.conf          neighbors, with their passwords, and the relay; for root and the BGP user's group alone
      allow                what the relay may announce (allowlist.py)
      exabgp.env           ExaBGP's own settings; no other environment file or variable is read
      relay.pyz            the relay (helper_archive.py)
      relay.sock           made by the relay: the agent's socket
      bfd.pyz, bfd.json    the BFD process and whom it watches, if anyone; bfd.state.json is what it sees (files.py)
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from bgp.bfd.files import CONFIG_NAME, STATE_NAME, encode_peers
from bgp.errors import BgpError
from bgp.exabgp.helper_archive import bfd_archive, relay_archive
from bgp.exabgp.settings import ALLOW_NAME, SpeakerConfig, bfd_peers, render, render_allow, render_settings, secrets

MIN_VERSION = (5, 0, 15)
"""The first that checks the TTL of inbound packets (GTSM); 6 is expected to change the helper protocol."""
_VALIDATE_TIMEOUT_S = 30


def validate(text: str, settings: str = "", hidden: Iterable[str] = ()) -> None:
    """Let ExaBGP itself check a configuration; BgpError with its words, but for the `hidden`, when it refuses it."""
    _require_exabgp()
    with tempfile.TemporaryDirectory(prefix="anylb-bgp-") as directory:
        path, settings_path = Path(directory, "exabgp.conf"), Path(directory, "exabgp.env")
        path.write_text(text)
        settings_path.write_text(settings)
        try:
            result = subprocess.run(
                [*_exabgp(), "validate", "-n", str(path)],
                env=_environment(settings_path),
                capture_output=True,
                text=True,
                timeout=_VALIDATE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BgpError(f"exabgp validate: no result within {_VALIDATE_TIMEOUT_S} s: try again") from None
    if result.returncode != 0:
        complaint = _complaint(result.stderr or result.stdout, hidden)
        raise BgpError(f"exabgp refuses the generated configuration: {complaint}")


def run(config: SpeakerConfig) -> NoReturn:
    """Become ExaBGP: write its files, validate them, exec. The process id stays, so signals reach ExaBGP itself.

    BgpError, before anything else has happened, when ExaBGP is missing or too old, the user is unknown or cannot be
    taken, or an ExaBGP already runs in `run_dir`.
    """
    text, settings, gid = prepared(config)
    try:
        _make_run_dir(config.run_dir, gid)
        _lock(config.run_dir)
        write(config.run_dir / "relay.pyz", relay_archive(), gid)
        write(config.run_dir / "exabgp.conf", text.encode(), gid)
        write(config.run_dir / "exabgp.env", settings.encode(), gid)
        write(config.run_dir / ALLOW_NAME, render_allow(config).encode(), gid)
        write(config.run_dir / "bfd.pyz", bfd_archive(), gid)
        write(config.run_dir / CONFIG_NAME, encode_peers(bfd_peers(config)), gid)
        (config.run_dir / STATE_NAME).unlink(missing_ok=True)
        # Left by a relay of another user, it could not be replaced by this one.
        config.socket_path.unlink(missing_ok=True)
        if os.getuid() == 0:
            os.setgroups([])  # ExaBGP drops its user and group, but not these
    except OSError as error:
        raise BgpError(f"{error.filename or config.run_dir}: {error.strerror}") from None
    arguments = [*_exabgp(), "server", str(config.run_dir / "exabgp.conf")]
    os.execve(arguments[0], arguments, _environment(config.run_dir / "exabgp.env"))  # noqa: S606


def prepared(config: SpeakerConfig) -> tuple[str, str, int]:
    """ExaBGP's configuration and settings, validated, and the group that may read them. BgpError as `run` raises it."""
    _require_exabgp()
    gid = _account(config.user)
    text, settings = render(config, _relay_python()), render_settings(config)
    validate(text, settings, secrets(config))
    return text, settings, gid


def _exabgp() -> list[str]:
    # -P: what lies in the current directory is not ExaBGP.
    return [sys.executable, "-P", "-m", "exabgp"]


def _environment(settings: Path) -> dict[str, str]:
    """Ours without anything that ExaBGP would read as a setting."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith("exabgp")}
    return {**kept, "EXABGP_ENVFILE": str(settings), "PYTHONDONTWRITEBYTECODE": "1"}


def _require_exabgp() -> None:
    wanted = ".".join(map(str, MIN_VERSION))
    advice = f"install it: pip install 'exabgp ~= 5.0, >= {wanted}'"
    try:
        found = importlib.metadata.version("exabgp")
    except importlib.metadata.PackageNotFoundError:
        raise BgpError(f"ExaBGP is not installed for {sys.executable}: {advice}") from None
    if importlib.util.find_spec("exabgp") is None:
        raise BgpError(f"ExaBGP {found} is installed for {sys.executable} without its code: {advice}")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < MIN_VERSION or numbers[0] > MIN_VERSION[0]:
        raise BgpError(f"ExaBGP {found} is too {'old' if numbers < MIN_VERSION else 'new'}: {advice}")


def _account(user: str) -> int:
    """Return the group of the user to run as, if we may."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise BgpError(f"bgp: user {user!r} does not exist: create it, or name another") from None
    if account.pw_uid == 0 or account.pw_gid == 0:
        raise BgpError(f"bgp: user {user!r} is root or in its group: ExaBGP is to run without privileges, name another")
    if os.getuid() not in (0, account.pw_uid):
        raise BgpError(f"bgp: only root can start ExaBGP as user {user!r}: run this as root, or as that user")
    return account.pw_gid


def _relay_python() -> str:
    """The interpreter for the relay: ours without its virtual environment, if other users can run it."""
    ours = Path(sys.executable).resolve()
    reachable = all(part.stat().st_mode & 0o001 for part in (ours, *ours.parents))
    return str(ours) if reachable else "/usr/bin/python3"


def _make_run_dir(run_dir: Path, gid: int) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    if run_dir.is_symlink() or run_dir.stat().st_uid not in (0, os.getuid()):
        raise BgpError(f"{run_dir}: is not a directory of ours: remove it")
    os.chown(run_dir, -1, gid)
    run_dir.chmod(0o1775)


def _lock(run_dir: Path) -> None:
    """Hold the lock file for the life of the process: ExaBGP keeps the descriptor, its helper does not get it."""
    path = run_dir / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        raise BgpError(f"{run_dir}: ExaBGP already runs here (pid {holder}): stop it first") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    os.set_inheritable(descriptor, True)


def write(path: Path, content: bytes, gid: int) -> None:
    """Write aside and rename in, so that nothing the BGP user may have put there is followed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, -1, gid)
        os.fchmod(descriptor, 0o640)
    aside.rename(path)


def _complaint(output: str, hidden: Iterable[str]) -> str:
    """Make one line of ExaBGP's several, which begin with "error: FILE is not a valid config file:"."""
    for secret in hidden:
        output = output.replace(secret, "***")
    _, _, said = output.partition("\nerror: ")
    return " ".join((said or output).partition("config file:")[2].split())[:400] or " ".join(output.split())[:400]
