# SPDX-License-Identifier: Apache-2.0
"""Figures of the interop matrix, which support/interop_table.py prints at the end of the run.

They travel with the test's report, because the process that prints has not run the test (pytest-xdist).
"""

import pytest


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """Return milliseconds by router, then by step, for the test to fill."""
    rows: dict[str, dict[str, int]] = {}
    request.node.user_properties.append(("figures", rows))
    return rows


@pytest.fixture
def remarks(request: pytest.FixtureRequest) -> list[str]:
    """Return lines to print below the table, for the test to fill."""
    lines: list[str] = []
    request.node.user_properties.append(("remarks", lines))
    return lines
