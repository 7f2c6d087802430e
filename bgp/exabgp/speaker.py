# SPDX-License-Identifier: Apache-2.0
"""The BGP speaker: the start of ExaBGP, which validates and writes its configuration and execs it.

Owns the run directory and the start. renderer.py owns the content of the configuration, reload.py replaces it at run
time, and the relay (reconciler.py) sends the commands.

    RUN_DIR                root, mode 1770, group of the BGP user: it may add its socket, and cannot change root's files
                           (1775 for an agent that is not root, which has to reach the socket)
      lock                 locked (flock) while this ExaBGP runs; contains its process id
      exabgp.conf          neighbors, with their passwords, and the helpers; for root and the BGP user's group only
      allow                the prefixes that the relay may advertise (allowlist.py)
      exabgp.env           ExaBGP's own settings; it reads no other environment file or variable
      relay.pyz            the relay (helper_archive.py)
      relay.sock           the agent's socket, created by the relay
      bfd.pyz, bfd.json    the BFD process and the neighbors that it monitors, if any
      bfd.status.json      the state of its sessions, written by the BFD process
      .NAME.spare          beside each file that a reload replaces (run_dir.py)
"""

from __future__ import annotations

import contextlib
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

from bgp.bfd.config import CONFIG_NAME, encode_peers
from bgp.bfd.status import STATUS_NAME
from bgp.errors import BgpError
from bgp.exabgp.config import USER, SpeakerConfig
from bgp.exabgp.helper_archive import bfd_archive, relay_archive
from bgp.exabgp.renderer import ALLOW_NAME, render, render_allowlist, render_env, secrets
from bgp.exabgp.run_dir import make_spare, write_file

MIN_VERSION = (5, 0, 15)
"""The first that checks the TTL of received packets (GTSM); 6 is expected to change the helper API."""
CONF_NAME = "exabgp.conf"
ENV_NAME = "exabgp.env"
RELOADED = (ALLOW_NAME, CONFIG_NAME, CONF_NAME)
"""The files that a reload replaces, in this order: the allowlist must already contain a new VIP."""
_VALIDATE_TIMEOUT_S = 30


def validate(text: str, env: str = "", hidden: Iterable[str] = ()) -> None:
    """Let ExaBGP check a configuration; BgpError with its message, without the `hidden` texts, if it refuses."""
    _require_exabgp()
    with tempfile.TemporaryDirectory(prefix="anylb-bgp-") as directory:
        path, env_path = Path(directory, "exabgp.conf"), Path(directory, "exabgp.env")
        path.write_text(text)
        env_path.write_text(env)
        try:
            result = subprocess.run(
                # What `exabgp validate` runs, without its imports for other commands.
                [*_python(), "exabgp.application.validate", "-n", str(path)],
                env=_environment(env_path),
                capture_output=True,
                text=True,
                timeout=_VALIDATE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BgpError(f"exabgp validate: no result within {_VALIDATE_TIMEOUT_S} s: try again") from None
    if result.returncode != 0:
        message = _error_message(result.stderr or result.stdout, hidden)
        raise BgpError(f"exabgp refuses the generated configuration: {message}")


def run(config: SpeakerConfig) -> NoReturn:
    """Write ExaBGP's files, validate them, and exec ExaBGP: the process id stays, so signals reach ExaBGP itself.

    BgpError, before anything else happens, if ExaBGP is missing or of the wrong version, the user is unknown or not
    permitted, or an ExaBGP already runs in `run_dir`.
    """
    text, env, gid = prepare(config)
    try:
        _make_run_dir(config, gid)
        _lock(config.run_dir)
        write_file(config.run_dir / "relay.pyz", relay_archive(), gid)
        write_file(config.run_dir / CONF_NAME, text.encode(), gid)
        write_file(config.run_dir / ENV_NAME, env.encode(), gid)
        write_file(config.run_dir / ALLOW_NAME, render_allowlist(config).encode(), gid)
        write_file(config.run_dir / "bfd.pyz", bfd_archive(), gid)
        write_file(config.run_dir / CONFIG_NAME, encode_peers(config.bfd_peers), gid)
        for name in RELOADED:
            make_spare(config.run_dir / name, gid)
        (config.run_dir / STATUS_NAME).unlink(missing_ok=True)
        # This relay could not replace a socket that a relay of another user left.
        config.socket_path.unlink(missing_ok=True)
        if os.getuid() == 0:
            os.setgroups([])  # ExaBGP changes user and group, but keeps supplementary groups
    except OSError as error:
        raise BgpError(f"{error.filename or config.run_dir}: {error.strerror}") from None
    arguments = [*_python(), "bgp.exabgp.connect", "server", str(config.run_dir / CONF_NAME)]
    os.execve(arguments[0], arguments, _environment(config.run_dir / ENV_NAME))  # noqa: S606


def prepare(config: SpeakerConfig) -> tuple[str, str, int]:
    """Return exabgp.conf and exabgp.env, validated, and the group that may read them. BgpError as from `run`."""
    _require_exabgp()
    gid = _user_group(config.user)
    text, env = render_config(config), render_env(config)
    validate(text, env, secrets(config))
    return text, env, gid


def render_config(config: SpeakerConfig) -> str:
    """Return exabgp.conf for this machine, not validated."""
    return render(config, _helper_python())


def _python() -> list[str]:
    # -P: import nothing from the current directory.
    return [sys.executable, "-P", "-m"]


def _environment(env_file: Path) -> dict[str, str]:
    """Return our environment without the variables that ExaBGP would read as settings."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith("exabgp")}
    return {**kept, "EXABGP_ENVFILE": str(env_file), "PYTHONDONTWRITEBYTECODE": "1"}


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


def _user_group(user: str) -> int:
    """Return the group of the user that runs ExaBGP. BgpError if there is none, or it is not permitted."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise BgpError(
            f"bgp: user {user!r} does not exist: the package and `./setup.sh agent` create {USER}, or name another"
        ) from None
    if account.pw_uid == 0 or account.pw_gid == 0:
        raise BgpError(f"bgp: user {user!r} is root or in its group: ExaBGP must run without privileges: name another")
    if os.getuid() not in (0, account.pw_uid):
        raise BgpError(f"bgp: only root can start ExaBGP as user {user!r}: run this as root, or as that user")
    return account.pw_gid


def _helper_python() -> str:
    """Return the interpreter of the helpers: ours outside its virtual environment, if other users can run it."""
    ours = Path(sys.executable).resolve()
    usable = all(part.stat().st_mode & 0o001 for part in (ours, *ours.parents))
    return str(ours) if usable else "/usr/bin/python3"


def _make_run_dir(config: SpeakerConfig, gid: int) -> None:
    path = config.run_dir
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid not in (0, os.getuid()):
        raise BgpError(f"{path}: belongs to another user, or is a symbolic link: remove it")
    os.chown(path, -1, gid)
    path.chmod(0o1770 if config.agent_uid == 0 else 0o1775)


def _lock(run_dir: Path) -> None:
    """Lock the lock file until the process exits: ExaBGP inherits the descriptor, its helpers do not.

    Whoever can open the file can lock it, and ExaBGP would never start.
    """
    path = run_dir / "lock"
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_uid != os.getuid():  # the BGP user may add files here
            path.unlink()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if os.fstat(descriptor).st_uid != os.getuid():
        raise BgpError(f"{path}: belongs to another user: remove it")
    os.fchmod(descriptor, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
        raise BgpError(f"{run_dir}: ExaBGP already runs here (pid {holder}): stop it first") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    os.set_inheritable(descriptor, True)


def _error_message(output: str, hidden: Iterable[str]) -> str:
    """Return ExaBGP's lines after "error: FILE is not a valid config file:" as one line."""
    for secret in hidden:
        output = output.replace(secret, "***")
    _, _, error = output.partition("\nerror: ")
    return " ".join((error or output).partition("config file:")[2].split())[:400] or " ".join(output.split())[:400]
