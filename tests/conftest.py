# SPDX-License-Identifier: Apache-2.0
"""Options of the whole suite: pytest takes them from the topmost conftest only."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--generated",
        type=int,
        default=20_000,
        metavar="N",
        help="how many generated packets the oracle and the program are compared on",
    )
