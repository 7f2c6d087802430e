# SPDX-License-Identifier: Apache-2.0
"""The interop matrix's table, printed at the end of the run: router, step, milliseconds."""

import pytest

FIGURES = pytest.StashKey[dict[str, dict[str, int]]]()
REMARKS = pytest.StashKey[list[str]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """Return milliseconds by router, then by step."""
    return request.config.stash.setdefault(FIGURES, {})


@pytest.fixture
def remarks(request: pytest.FixtureRequest) -> list[str]:
    """Return lines to print below the table."""
    return request.config.stash.setdefault(REMARKS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows, lines = config.stash.get(FIGURES, {}), config.stash.get(REMARKS, [])
    if rows or lines:
        terminalreporter.section("interop")
    if rows:
        write_table(terminalreporter, rows)
    for line in lines:
        terminalreporter.write_line(line)


def write_table(terminalreporter: pytest.TerminalReporter, rows: dict[str, dict[str, int]]) -> None:
    steps = list(dict.fromkeys(step for row in rows.values() for step in row))
    width = max(map(len, rows))
    terminalreporter.write_line(" ".join([f"{'ms':<{width}}", *(f"{step:>12}" for step in steps)]))
    for name, row in rows.items():
        cells = [f"{row[step]:>12}" if step in row else f"{'-':>12}" for step in steps]
        terminalreporter.write_line(" ".join([f"{name:<{width}}", *cells]))
