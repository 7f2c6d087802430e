# SPDX-License-Identifier: Apache-2.0
"""What the checks of a configuration need and this machine lacks. I/O only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from agent.config.health import ExecCheckConfig, HttpsCheckConfig
from agent.config.service import ServiceConfig
from agent.errors import SettingError
from agent.health.command import user_of
from agent.health.failure import ProbeFailed
from agent.health.tls import context_of


def missing_prerequisites(services: Sequence[ServiceConfig]) -> Iterator[SettingError]:
    """Yield a warning for each user, program or file without which a check cannot succeed. It may still appear."""
    for i, service in enumerate(services):
        check, field = service.health, f"services[{i}].health"
        if isinstance(check, ExecCheckConfig):
            try:
                user_of(check.user)
            except ProbeFailed as failure:
                yield SettingError(f"{field}.user", str(failure))
            if not os.access(check.command[0], os.X_OK) or os.path.isdir(check.command[0]):
                yield SettingError(f"{field}.command[0]", f"{check.command[0]} is not a program that can be started")
        elif isinstance(check, HttpsCheckConfig) and check.ca_file is not None:
            try:
                context_of(check.verify, check.ca_file)
            except ProbeFailed as failure:
                yield SettingError(f"{field}.ca_file", str(failure))
