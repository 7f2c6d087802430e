# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the proofs: a bpffs and a network namespace of their own, with the program and sockets."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bpffs import new_bpffs
from support.netns import new_netns
from support.proof.stage import Stage
from support.proof.stage_sockets import Sockets


@pytest.fixture(scope="session")
def proof_bpffs() -> Iterator[Path]:
    with new_bpffs("proof") as mount:
        yield mount


@pytest.fixture(scope="module")
def proof_netns() -> Iterator[None]:
    """Run this thread in a network namespace that ends with the module's sockets."""
    with new_netns():
        yield


@pytest.fixture(scope="module")
def stage(proof_bpffs: Path, proof_netns: None, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The whole program or, by a parameter, one without IPv6."""
    folder = proof_bpffs / "stage"
    made = Stage(folder, **getattr(request, "param", {}))
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sockets(proof_netns: None) -> Iterator[Sockets]:
    with Sockets() as made:
        yield made
