# SPDX-License-Identifier: Apache-2.0
"""What tests of sessions that move into other maps share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf.attach.datapath import detach_all


@pytest.fixture
def folder(bpffs: Path, module_netns: None) -> Iterator[Path]:
    """A node's folder of pins; what is attached by it is detached at the end."""
    yield bpffs / "numbers"
    detach_all(bpffs / "numbers")  # the kernel frees a link whose pin was removed when it has time
