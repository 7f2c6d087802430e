# SPDX-License-Identifier: Apache-2.0
"""Access to a file for one more group, by an access control list (acl(5)): its owner may give it without CAP_CHOWN,
which the agent's unit does not have."""

from __future__ import annotations

import grp
import logging
import os
import stat
import struct
from pathlib import Path
from typing import Final

log = logging.getLogger("anylb")

GROUP: Final = "anylb"
"""Its members may read: `lbctl status`, `lbctl check`, and what else changes nothing. Servers in it may hand their
listeners over."""
_ATTRIBUTE: Final = "system.posix_acl_access"
_VERSION: Final = 2
_NOBODY_IN_PARTICULAR: Final = 0xFFFFFFFF
_USER_OBJ, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x04, 0x08, 0x10, 0x20  # include/uapi/linux/posix_acl.h


def admit_group(path: Path, gid: int, permissions: int) -> None:
    """Let a group use a file or folder with these permissions (0 to 7), and no one else but its owner. Raises OSError.

    A later chmod that takes all from the file's own group takes them from this one too.
    """
    owner = stat.S_IMODE(path.stat().st_mode) >> 6
    entries = [
        (_USER_OBJ, owner, _NOBODY_IN_PARTICULAR),
        (_GROUP_OBJ, 0, _NOBODY_IN_PARTICULAR),
        (_GROUP, permissions, gid),
        (_MASK, permissions, _NOBODY_IN_PARTICULAR),
        (_OTHER, 0, _NOBODY_IN_PARTICULAR),
    ]
    value = struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, _ATTRIBUTE, value)


def admit_readers(path: Path) -> None:
    """Let the group `anylb` connect to a unix socket, if the group exists; what it may ask for its server decides."""
    try:
        gid = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    try:
        admit_group(path.parent, gid, 0o1)
        admit_group(path, gid, 0o6)
    except OSError as error:
        log.warning("%s: cannot be opened to the group %s, so only root uses it: %s", path, GROUP, error.strerror)
