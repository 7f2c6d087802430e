# SPDX-License-Identifier: Apache-2.0
"""The error that this package raises for every failure that a user can cause or meet."""


class BgpError(Exception):
    """One clear line: the place, what is wrong, and the next step."""


class NotReadError(BgpError):
    """ExaBGP has not read a new configuration in time; it may do so later."""
