# SPDX-License-Identifier: Apache-2.0
"""The interop matrix's table, printed at the end of the run: router, step, milliseconds."""

from typing import Any

import pytest


def write_interop(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests that passed have measured, if any did."""
    found: list[tuple[str, Any]] = [
        one for report in terminalreporter.stats.get("passed", []) for one in report.user_properties
    ]
    rows = {router: row for name, some in found if name == "figures" for router, row in some.items()}
    lines = [line for name, some in found if name == "remarks" for line in some]
    if rows or lines:
        terminalreporter.section("interop")
    if rows:
        _write_table(terminalreporter, rows)
    for line in lines:
        terminalreporter.write_line(line)


def _write_table(terminalreporter: pytest.TerminalReporter, rows: dict[str, dict[str, int]]) -> None:
    steps = list(dict.fromkeys(step for row in rows.values() for step in row))
    width = max(map(len, rows))
    terminalreporter.write_line(" ".join([f"{'ms':<{width}}", *(f"{step:>12}" for step in steps)]))
    for name, row in rows.items():
        cells = [f"{row[step]:>12}" if step in row else f"{'-':>12}" for step in steps]
        terminalreporter.write_line(" ".join([f"{name:<{width}}", *cells]))
