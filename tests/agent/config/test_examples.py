# SPDX-License-Identifier: Apache-2.0
"""docs/examples/: each file is a valid lb.yml, and shows what its name says."""

from pathlib import Path

import pytest

from agent.config.file import parse
from agent.config.schema import Config

EXAMPLES = sorted((Path(__file__).parents[3] / "docs/examples").glob("*.yml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid(example: Path) -> None:
    parse(example.read_text(encoding="utf-8"), example.name)


def test_the_examples_show_what_they_are_for() -> None:
    found: dict[str, Config] = {path.stem: parse(path.read_text(encoding="utf-8"), path.name) for path in EXAMPLES}
    assert len(found["two-routers"].bgp.peers) == 2
    assert {vip.version for vip in found["ipv6"].vips} == {4, 6}
    assert found["nat"].nat_services
    assert found["instances"].services[0].instances
    assert set(found) == {"one-router", "two-routers", "ipv6", "nat", "instances"}
