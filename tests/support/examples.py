# SPDX-License-Identifier: Apache-2.0
"""How many examples a costly property is tried on: as many as its number, a tenth of them in `make check`."""

from hypothesis import settings

USUAL = 100
"""What hypothesis tries by default; `make check` runs with a smaller profile."""


def examples(count: int) -> settings:
    """Return a decorator: `count` examples in `make test`, in other profiles in proportion; no deadline."""
    return settings(max_examples=max(1, count * settings.default.max_examples // USUAL), deadline=None)
