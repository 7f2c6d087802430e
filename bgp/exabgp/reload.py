# SPDX-License-Identifier: Apache-2.0
"""Having a running ExaBGP read a new configuration, so that only the neighbors that changed notice.

What ExaBGP 5.0.15 does on SIGUSR1 (seen on the wire, tests/bgp/exabgp/test_reload_lab.py): a neighbor whose section is the
same keeps its session and its routes; one that is new comes up, one that is gone goes; one with another hold time,
password, TTL or family is set up again. The relay is not started again. But the signal is lost while routes wait to be
sent to any neighbor, and a file that it cannot parse leaves it as it is with no more than a line in its log. So the
file is validated before it is put in place, the signal is repeated until ExaBGP has read the file (inotify(7)), and a
neighbor that ExaBGP could not serve without root is refused.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import select
import signal
import time
from ipaddress import ip_address
from pathlib import Path

from bgp.bfd.files import CONFIG_NAME, encode_peers
from bgp.errors import BgpError
from bgp.exabgp.settings import ALLOW_NAME, Address, SpeakerConfig, bfd_peers, render_allow
from bgp.exabgp.speaker import prepared, write

REPEAT_S = 1.0
PATIENCE_S = 150.0
"""An attempt to connect to a router that is gone ends after two minutes, and with it what waits to be sent there."""
_IN_CLOSE_NOWRITE = 0x10
_RESTART = "it takes a restart: `systemctl restart lb-bgp`"


def reload(config: SpeakerConfig) -> int:
    """Put a configuration in the place of the running ExaBGP's and have it read; returns ExaBGP's process id.

    BgpError, and nothing is changed, when ExaBGP would refuse it, when none runs, or when it needs a restart; BgpError
    too when ExaBGP does not take it up.
    """
    text, settings, gid = prepared(config)
    pid = _holder(config.run_dir / "lock")
    conf = config.run_dir / "exabgp.conf"
    try:
        old, old_settings = conf.read_text(), (config.run_dir / "exabgp.env").read_text()
    except OSError as error:
        raise BgpError(f"{error.filename}: {error.strerror}; {_RESTART}") from None
    if settings != old_settings:
        raise BgpError(f"bgp.user: is not the one that ExaBGP was started with; {_RESTART}")
    new = sorted(map(str, config.listens_on - listening(old)))
    if new:
        raise BgpError(f"bgp.peers: no port is open on {new[0]} for a passive session; {_RESTART}")
    try:
        # The gate first: a VIP that is new must find it open, and one that is gone has nobody who wishes it.
        write(config.run_dir / ALLOW_NAME, render_allow(config).encode(), gid)
        write(config.run_dir / CONFIG_NAME, encode_peers(bfd_peers(config)), gid)
        write(conf, text.encode(), gid)
        _have_it_read(conf, pid)
    except OSError as error:
        raise BgpError(f"{error.filename or config.run_dir}: {error.strerror}") from None
    return pid


def _holder(lock: Path) -> int:
    """The process id of the ExaBGP that holds the lock."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BgpError(f"{lock}: {error.strerror}: no ExaBGP runs here; `systemctl start lb-bgp`") from None
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = file.read(20).strip()
            if said.isdigit():
                return int(said)
            raise BgpError(f"{lock}: ExaBGP is being started: try again") from None
    raise BgpError(f"{lock}: no ExaBGP runs here; `systemctl start lb-bgp`")


def listening(text: str) -> frozenset[Address]:
    """The local addresses of the passive neighbors in a configuration that `render` wrote."""
    found = re.findall(r"^  local-address (\S+);\n(?:(?!^}).*\n)*?  passive true;", text, re.MULTILINE)
    return frozenset(map(ip_address, found))


def _have_it_read(conf: Path, pid: int) -> None:
    """Signal ExaBGP until it has read the file to its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(conf), _IN_CLOSE_NOWRITE) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(conf))
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                os.kill(pid, signal.SIGUSR1)
            except ProcessLookupError:
                raise BgpError("ExaBGP has ended meanwhile: see the journal of lb-bgp") from None
            if select.select([watch], [], [], REPEAT_S)[0]:
                return
    finally:
        if watch >= 0:
            os.close(watch)
    raise BgpError(f"ExaBGP (pid {pid}) did not read {conf} within {PATIENCE_S:.0f} s: {_RESTART}")
