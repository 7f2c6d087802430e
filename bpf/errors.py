# SPDX-License-Identifier: Apache-2.0
"""The one exception of this package."""


class BpfError(Exception):
    """An error that a user can cause or meet: one line with the place, what is wrong and the next step.

    `errno` is the kernel's error number, if there is one.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
