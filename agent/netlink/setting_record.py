# SPDX-License-Identifier: Apache-2.0
"""Kernel settings that the agent changes, and what they were before: /run/anylb/settings.json. I/O only.

Below /run, because a reboot ends both. Without a record (a test, `lbctl`) settings are changed all the same.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from agent import private_file

_MAX_BYTES = 1 << 20
_record: Path | None = None


def keep_record(path: Path | None) -> None:
    """Record from now on what this process changes; None: no more."""
    global _record
    _record = path


def change(setting: Path, value: str) -> None:
    """Write a setting, a file below /proc/sys, and record its value before the first change. Raises OSError."""
    before = setting.read_text().strip()
    setting.write_text(value)
    if _record is not None:
        known = _read(_record)
        first, _ = known.get(str(setting), (before, value))
        with contextlib.suppress(OSError):  # a full disk must not keep the node from serving
            private_file.write(_record, json.dumps(known | {str(setting): (first, value)}))


def restore(record: Path) -> list[str]:
    """Set back what is still as the agent set it; return a text for each. Raises OSError, then the record stays."""
    restored = []
    for name, (before, ours) in reversed(_read(record).items()):
        setting = Path(name)
        with contextlib.suppress(FileNotFoundError):  # its interface is gone
            if setting.read_text().strip() == ours:
                setting.write_text(before)
                restored.append(f"{name} = {before}")
    record.unlink(missing_ok=True)
    return restored


def _read(record: Path) -> dict[str, tuple[str, str]]:
    """Return the values before and after, by setting; none of a record that is damaged or another user's."""
    try:
        content = json.loads(private_file.read_own(record, _MAX_BYTES))
        return {str(name): (str(before), str(after)) for name, (before, after) in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
