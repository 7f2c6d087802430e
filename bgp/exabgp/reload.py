# SPDX-License-Identifier: Apache-2.0
"""The reload of a running ExaBGP: it reads a new configuration, and only sessions that changed are reset.

What ExaBGP 5.0.15 does on SIGUSR1 (tests/bgp/exabgp/test_reload_lab.py observes it on the wire): a neighbor with an
unchanged section keeps its session and its routes; a new neighbor comes up, a removed one goes down; a neighbor with
another hold time, password, TTL or family gets a new session. The relay keeps running. But ExaBGP loses the signal
while routes wait to be sent to any neighbor, and a file that it cannot parse changes nothing but adds a line to its
log. So the file is validated before it is installed, the signal is repeated until ExaBGP has read the file
(inotify(7)), and a neighbor that ExaBGP could not serve without root is refused. Validating takes a process of ExaBGP
that imports all of it: where only the allowlist or BFD change, the file in place was validated before.

Who reloads needs no capability: the files are exchanged (run_dir.py), and the relay, which runs as ExaBGP's user, sends
the signal when exabgp.conf is replaced or touched. A file that has not changed is left alone, and so is ExaBGP if that
is exabgp.conf.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from collections.abc import Mapping
from pathlib import Path

from bgp.bfd.config import CONFIG_NAME, encode_peers
from bgp.errors import BgpError, NotReadError
from bgp.exabgp.config import SpeakerConfig
from bgp.exabgp.renderer import ALLOW_NAME, listen_addresses, render_allowlist, render_env
from bgp.exabgp.run_dir import RESTART, clear_spare, exchange_file, lock_holder
from bgp.exabgp.speaker import CONF_NAME, ENV_NAME, RELOADED, prepare, render_config

REPEAT_S = 1.0
TIMEOUT_S = 150.0
"""A connection attempt to a dead router ends after two minutes; until then routes may wait to be sent there."""
_UNREAD_NAME = ".unread"
"""Exists while ExaBGP may not have read exabgp.conf: a reload that was killed is finished by the next one."""
_IN_CLOSE_NOWRITE = 0x10


def is_running(config: SpeakerConfig) -> bool:
    """Return whether an ExaBGP runs in the run directory. BgpError while it is starting."""
    return lock_holder(config.run_dir / "lock") is not None


def is_current(config: SpeakerConfig) -> bool:
    """Return whether ExaBGP, the relay and BFD have this configuration, as far as their files show."""
    return not (config.run_dir / _UNREAD_NAME).exists() and not _changed(config, render_config(config))


def check(config: SpeakerConfig) -> None:
    """BgpError if ExaBGP would refuse the configuration, or needs a restart for it. Changes nothing."""
    if is_current(config):
        return
    if not is_running(config):
        prepare(config)
        return
    _validated(config)
    _require_no_restart(config)


def reload(config: SpeakerConfig, timeout_s: float = TIMEOUT_S) -> int:
    """Replace the running ExaBGP's configuration and wait until ExaBGP has read it; return ExaBGP's process id.

    BgpError, before anything changes, if ExaBGP would refuse the configuration, does not run, or needs a restart for
    it; NotReadError if ExaBGP does not read it within `timeout_s`.
    """
    text = _validated(config)
    pid = lock_holder(config.run_dir / "lock")
    if pid is None:
        raise BgpError(f"{config.run_dir}: ExaBGP does not run here: `systemctl start lb-bgp`")
    _require_no_restart(config)
    unread = config.run_dir / _UNREAD_NAME
    try:
        changed = _changed(config, text)
        if CONF_NAME in changed:
            unread.touch(mode=0o600)
        for name, content in changed.items():
            exchange_file(config.run_dir / name, content)
        if unread.exists():
            _touch_until_read(config.run_dir / CONF_NAME, pid, timeout_s)
            unread.unlink(missing_ok=True)
            clear_spare(config.run_dir / CONF_NAME)
    except OSError as error:
        raise BgpError(f"{error.filename or config.run_dir}: {error.strerror}") from None
    return pid


def _validated(config: SpeakerConfig) -> str:
    """Return exabgp.conf, found valid by ExaBGP now, or earlier if it is in place. BgpError if ExaBGP refuses it."""
    text = render_config(config)
    in_place = {CONF_NAME: text, ENV_NAME: render_env(config)}
    if any(_content(config.run_dir / name) != wanted.encode() for name, wanted in in_place.items()):
        prepare(config)
    return text


def _changed(config: SpeakerConfig, text: str) -> Mapping[str, bytes]:
    """Return the files whose content would change, in the order in which they are replaced."""
    wanted = {
        ALLOW_NAME: render_allowlist(config).encode(),
        CONFIG_NAME: encode_peers(config.bfd_peers),
        CONF_NAME: text.encode(),
    }
    return {name: wanted[name] for name in RELOADED if _content(config.run_dir / name) != wanted[name]}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _require_no_restart(config: SpeakerConfig) -> None:
    try:
        old, old_env = (config.run_dir / CONF_NAME).read_text(), (config.run_dir / ENV_NAME).read_text()
    except OSError as error:
        raise BgpError(f"{error.filename}: {error.strerror}; {RESTART}") from None
    if render_env(config) != old_env:
        raise BgpError(f"bgp.user: ExaBGP runs as another user; {RESTART}")
    new = sorted(map(str, config.listen_addresses - listen_addresses(old)))
    if new:
        raise BgpError(f"bgp.peers: ExaBGP does not listen on {new[0]} for a passive session; {RESTART}")


def _touch_until_read(conf: Path, pid: int, timeout_s: float) -> None:
    """Have the relay signal ExaBGP until ExaBGP has read the file to its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(conf), _IN_CLOSE_NOWRITE) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(conf))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            os.utime(conf)
            if select.select([watch], [], [], REPEAT_S)[0]:
                return
            if lock_holder(conf.with_name("lock")) != pid:  # /proc may hide another user's process
                raise BgpError("ExaBGP exited during the reload: see `journalctl -u lb-bgp`")
    finally:
        if watch >= 0:
            os.close(watch)
    raise NotReadError(f"ExaBGP (pid {pid}) did not read {conf} within {timeout_s:.0f} s: {RESTART}")
