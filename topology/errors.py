# SPDX-License-Identifier: Apache-2.0
"""The one exception of the lab runner. Its text is one line for people: place, fault, next step."""


class LabError(Exception):
    """A lab file, a lab or its machine is faulty; `str()` of it is one line for the user."""
