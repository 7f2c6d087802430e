# SPDX-License-Identifier: Apache-2.0
"""A network namespace with a VIP, servers in it, and a bpffs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bpffs import new_bpffs
from support.instance_servers import VIP, VIP6, Servers
from support.netns import add_address6, ip, new_netns

from agent.instances import pool


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with new_netns():
        ip("address", "add", f"{VIP}/32", "dev", "lo")
        add_address6(str(VIP6), "lo")
        with Servers(tmp_path) as started:
            yield started


@pytest.fixture
def looks_soon() -> Iterator[None]:
    """A keeper looks again for what is wrong ten times a second, and names it after two tenths."""
    with pytest.MonkeyPatch.context() as patched:  # a test may undo its own patches
        patched.setattr(pool, "SOON_S", 0.1)
        patched.setattr(pool, "PATIENCE_S", 0.2)
        yield


@pytest.fixture
def bpffs() -> Iterator[Path]:
    with new_bpffs("instances") as mount:
        yield mount
