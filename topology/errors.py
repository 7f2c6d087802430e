# SPDX-License-Identifier: Apache-2.0
"""The one exception of the lab runner. Its text is a single line for people: place, what is wrong, next step."""


class LabError(Exception):
    """A lab file, a lab or its machine is not as it must be; `str()` of it is one line to show to the user."""
