# SPDX-License-Identifier: Apache-2.0
"""A relay process for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.relay_process import RelayProcess


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    process = RelayProcess(tmp_path)
    try:
        process.answer_first_commands()
        yield process
    finally:
        process.process.kill()
        process.process.wait()
