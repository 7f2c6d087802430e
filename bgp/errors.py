# SPDX-License-Identifier: Apache-2.0
"""What this package raises for anything a user can cause or meet."""


class BgpError(Exception):
    """One clear line: the place, what is wrong, and the next step."""
