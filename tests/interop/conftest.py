# SPDX-License-Identifier: Apache-2.0
"""The interop matrix's table, printed when all is over: router, step, milliseconds."""

import pytest

FIGURES = pytest.StashKey[dict[str, dict[str, int]]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, dict[str, int]]:
    """Milliseconds by router, then by step."""
    return request.config.stash.setdefault(FIGURES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(FIGURES, {})
    if not rows:
        return
    steps = list(dict.fromkeys(step for row in rows.values() for step in row))
    width = max(map(len, rows))
    terminalreporter.section("interop: milliseconds")
    terminalreporter.write_line(" ".join([" " * width, *(f"{step:>12}" for step in steps)]))
    for name, row in rows.items():
        cells = [f"{row[step]:>12}" if step in row else f"{'-':>12}" for step in steps]
        terminalreporter.write_line(" ".join([f"{name:<{width}}", *cells]))
