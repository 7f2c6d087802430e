# SPDX-License-Identifier: Apache-2.0
"""What a configuration of instances needs and this machine lacks. I/O only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from agent.config.service import ServiceConfig
from agent.errors import SettingError

_HIDDEN = (Path("/tmp"), Path("/var/tmp"), Path("/home"), Path("/root"))  # noqa: S108 - what others may use
"""Where lb-agent.service sees nothing of others (PrivateTmp, ProtectHome)."""


def missing_for_instances(services: Sequence[ServiceConfig]) -> Iterator[SettingError]:
    """Yield a warning for each match that cannot find anything as things are. It may still appear."""
    for i, service in enumerate(services):
        for j, match in enumerate(service.instances.match if service.instances else ()):
            field = f"services[{i}].instances.match[{j}]"
            if match.executable is not None and not match.executable.is_file():
                yield SettingError(f"{field}.executable", f"{match.executable} is no file on this machine")
            if match.pidfile is not None and any(folder in match.pidfile.parents for folder in _HIDDEN):
                where = f"{match.pidfile} is where lb-agent.service sees nothing of others"
                yield SettingError(f"{field}.pidfile", f"{where}; have the server write it below /run")
