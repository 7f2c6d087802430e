# SPDX-License-Identifier: Apache-2.0
"""The one exception of this package."""


class BpfError(Exception):
    """Something a user can cause or meet: one clear line with the place, what is wrong and the next step.

    `errno` is the kernel's error number where one is behind it.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
