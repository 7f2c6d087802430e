# SPDX-License-Identifier: Apache-2.0
"""lbctl: the command line."""

import click


@click.group()
def main() -> None:
    """Inspect and steer anylb."""
