# SPDX-License-Identifier: Apache-2.0
"""The reference of lb.yml: every key is described, its example is valid, and docs/settings.md is up to date."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from agent.config.reference import Key, page, sections

EQUAL_OR_NOT = Path(__file__).parents[3] / "docs/configuration.md"
DOCUMENT = Path(__file__).parents[3] / "docs/settings.md"
KEYS = [
    pytest.param(key, id=f"{section.path}.{section.variant}.{key.name}")
    for section in sections()
    for key in section.keys
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_has_a_meaning_and_a_valid_example(key: Key) -> None:
    assert key.meaning.endswith("."), "the text below the key in its section's class says what it means"
    if key.example:
        annotation = key.info.rebuild_annotation()
        TypeAdapter(annotation).validate_python(yaml.safe_load(key.example))


def test_the_reference_reaches_every_corner() -> None:
    found = {f"{section.path}.{key.name}" for section in sections() for key in section.keys}
    assert len(found) > 90
    assert {
        ".cluster",
        "services[].health.send",
        "services[].health.expect.status",
        "services[].instances.match[].pidfile",
        "bgp.peers[].as",
        "bgp.peers[].bfd.multiplier",
        "table.previous.nat.pool6",
        "nat.sessions",
    } < found


def test_the_types_of_a_check_have_all_their_keys() -> None:
    checks = {one.variant: [key.name for key in one.keys] for one in sections() if one.path == "services[].health"}
    assert checks["udp"] == ["type", "send", "expect"]
    assert checks["https"] == ["type", "server_name", "verify", "ca_file"]
    assert {"interval_s", "port", "send"} < set(checks["tcp"])


def test_the_page_is_up_to_date() -> None:
    command = "python -m agent.config.reference > docs/settings.md"
    assert DOCUMENT.read_text(encoding="utf-8") == page(), f"run: {command}"


def test_every_key_is_once_among_those_that_must_be_equal_or_may_differ() -> None:
    table = EQUAL_OR_NOT.read_text(encoding="utf-8").partition("## What must be equal on all servers")[2]
    cells = re.findall(r"(?m)^\| (`.*?) \|", table)
    named = [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]
    paths = {f"{section.path}.{key.name}".lstrip(".") for section in sections() for key in section.keys}
    below = {path for path in paths if not any(re.match(rf"{re.escape(path)}(\[\])?\.", other) for other in paths)}
    for path in sorted(below):
        above = [name for name in named if re.match(rf"{re.escape(name)}($|\[|\.)", path)]
        assert len(above) == 1, f"{path} is in the table by {above}"
    assert not [name for name in named if not any(re.match(rf"{re.escape(name)}($|\[|\.)", path) for path in below)]
