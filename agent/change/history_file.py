# SPDX-License-Identifier: Apache-2.0
"""The files of a change: the history, and lb.yml itself when an earlier text runs again. I/O only.

lb.yml is always what starts at the next boot. So a change that is taken back is taken out of lb.yml too, and what was
there is kept beside it as lb.yml.rejected.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from agent import private_file
from agent.change import history
from agent.change.history import History
from agent.errors import AgentError

log = logging.getLogger("anylb")

_MAX_FILE = 3 * history.MAX_BYTES
"""JSON escapes some characters; and the text that runs and the one to go back to are in it as well."""


def load(path: Path) -> History:
    """Return the history that an earlier agent left; an empty one if there is none that can be read."""
    try:
        return history.parse(private_file.read_own(path, _MAX_FILE))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s: %s; beginning a new history", path, getattr(error, "strerror", None) or error)
    return History()


def save(path: Path, state: History) -> None:
    """Replace the history so that it survives a crash. Raises AgentError."""
    try:
        private_file.make_folder(path.parent)
        private_file.write(path, history.encode(state), sync=True)
    except OSError as error:
        raise AgentError(f"{error.filename or path}: {error.strerror or error}") from None


def require_writable(path: Path) -> None:
    """Raise AgentError if lb.yml could not be replaced: a change could not be taken back."""
    target = path.resolve()
    for one in (target, target.parent):
        if not os.access(one, os.W_OK):
            raise AgentError(
                f"{one}: cannot be written, so the change could not be taken back; apply without --timeout"
            )


def restore(path: Path, text: str) -> None:
    """Put `text` into lb.yml, and what was there into lb.yml.rejected. Raises AgentError. May be repeated."""
    target = path.resolve()
    try:
        with contextlib.suppress(FileNotFoundError):
            found = target.read_bytes()
            if found == text.encode():
                return
            _replace(path.with_name(f"{path.name}.rejected"), found, target)
        _replace(target, text.encode(), target)
    except OSError as error:
        raise AgentError(f"{error.filename or path}: {error.strerror or error}") from None


def restore_if_due(lb_yml: Path, path: Path, now: float, *, is_refused: bool = False) -> bool:
    """Put the earlier text back into lb.yml if a change's time ended while no agent ran; return whether that was so.

    `is_refused`: also before its time, because no agent can run lb.yml. Raises AgentError.
    """
    state = load(path)
    if state.pending is None or (state.pending.remaining_s(now) > 0 and not is_refused):
        return False
    log.warning("%s: the last change was not confirmed: returning to the previous configuration", lb_yml)
    restore(lb_yml, state.pending.previous)
    save(path, history.gone_back(state, state.pending.previous))
    return True


def _replace(path: Path, content: bytes, like: Path) -> None:
    """Replace a file at once, with the mode and owner of `like` if that exists."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        with contextlib.suppress(OSError):  # no owner to keep, or none that this user may give
            status = like.stat()
            os.fchmod(file.fileno(), status.st_mode & 0o777)
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno != errno.EBUSY:  # a bind mount: only what is inside can be replaced
            raise
        path.write_bytes(content)
