# SPDX-License-Identifier: Apache-2.0
"""The reload of a running ExaBGP: it reads a new configuration, and only sessions that changed are reset.

What ExaBGP 5.0.15 does on SIGUSR1 (tests/bgp/exabgp/test_reload_lab.py observes it on the wire): a neighbor with an
unchanged section keeps its session and its routes; a new neighbor comes up, a removed one goes down; a neighbor with
another hold time, password, TTL or family gets a new session. The relay keeps running. But ExaBGP loses the signal
while routes wait to be sent to any neighbor, and a file that it cannot parse changes nothing but adds a line to its
log. So the file is validated before it is installed, the signal is repeated until ExaBGP has read the file
(inotify(7)), and a neighbor that ExaBGP could not serve without root is refused.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import time
from pathlib import Path

from bgp.bfd.config import CONFIG_NAME, encode_peers
from bgp.errors import BgpError
from bgp.exabgp.config import SpeakerConfig
from bgp.exabgp.renderer import ALLOW_NAME, listen_addresses, render_allowlist
from bgp.exabgp.speaker import prepare, write_file

REPEAT_S = 1.0
TIMEOUT_S = 150.0
"""A connection attempt to a dead router ends after two minutes; until then routes may wait to be sent there."""
_IN_CLOSE_NOWRITE = 0x10
_RESTART = "restart it: `systemctl restart lb-bgp`"


def reload(config: SpeakerConfig) -> int:
    """Replace the running ExaBGP's configuration and wait until ExaBGP has read it; return ExaBGP's process id.

    BgpError, before anything changes, if ExaBGP would refuse the configuration, does not run, or needs a restart for
    it; BgpError too if ExaBGP does not read it in time.
    """
    text, env, gid = prepare(config)
    pid = _lock_holder(config.run_dir / "lock")
    conf = config.run_dir / "exabgp.conf"
    try:
        old, old_env = conf.read_text(), (config.run_dir / "exabgp.env").read_text()
    except OSError as error:
        raise BgpError(f"{error.filename}: {error.strerror}; {_RESTART}") from None
    if env != old_env:
        raise BgpError(f"bgp.user: ExaBGP runs as another user; {_RESTART}")
    new = sorted(map(str, config.listen_addresses - listen_addresses(old)))
    if new:
        raise BgpError(f"bgp.peers: ExaBGP does not listen on {new[0]} for a passive session; {_RESTART}")
    try:
        # The allowlist first: it must already contain a new VIP, and the agent no longer desires a removed one.
        write_file(config.run_dir / ALLOW_NAME, render_allowlist(config).encode(), gid)
        write_file(config.run_dir / CONFIG_NAME, encode_peers(config.bfd_peers), gid)
        write_file(conf, text.encode(), gid)
        _signal_until_read(conf, pid)
    except OSError as error:
        raise BgpError(f"{error.filename or config.run_dir}: {error.strerror}") from None
    return pid


def _lock_holder(lock: Path) -> int:
    """Return the process id of the ExaBGP that holds the lock."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BgpError(f"{lock}: {error.strerror}: ExaBGP does not run here: `systemctl start lb-bgp`") from None
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            content = file.read(20).strip()
            if content.isdigit():
                return int(content)
            raise BgpError(f"{lock}: ExaBGP is starting: try again") from None
    raise BgpError(f"{lock}: ExaBGP does not run here: `systemctl start lb-bgp`")


def _signal_until_read(conf: Path, pid: int) -> None:
    """Signal ExaBGP until it has read the file to its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(conf), _IN_CLOSE_NOWRITE) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(conf))
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                os.kill(pid, signal.SIGUSR1)
            except ProcessLookupError:
                raise BgpError("ExaBGP exited during the reload: see `journalctl -u lb-bgp`") from None
            if select.select([watch], [], [], REPEAT_S)[0]:
                return
    finally:
        if watch >= 0:
            os.close(watch)
    raise BgpError(f"ExaBGP (pid {pid}) did not read {conf} within {TIMEOUT_S:.0f} s: {_RESTART}")
