# SPDX-License-Identifier: Apache-2.0
"""A network namespace with a VIP, servers in it, and a bpffs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bpffs import new_bpffs
from support.instance_servers import VIP, VIP6, Servers
from support.netns import add_address6, ip, new_netns


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with new_netns():
        ip("address", "add", f"{VIP}/32", "dev", "lo")
        add_address6(str(VIP6), "lo")
        with Servers(tmp_path) as started:
            yield started


@pytest.fixture
def bpffs() -> Iterator[Path]:
    with new_bpffs("instances") as mount:
        yield mount
