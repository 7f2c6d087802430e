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
    parser.addoption(
        "--bfd-rounds",
        type=int,
        default=1,
        metavar="N",
        help="how often each router's BFD is to notice a silent failure",
    )
    parser.addoption(
        "--bfd-load-s",
        type=int,
        default=5,
        metavar="S",
        help="how many seconds BFD is watched for false alarms under full load (600 for a figure to quote)",
    )
