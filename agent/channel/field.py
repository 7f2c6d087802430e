# SPDX-License-Identifier: Apache-2.0
"""What the codecs of a node's state share: lists of records, states and weights, each within its bounds. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

from agent.model import MAX_WEIGHT, State

STATES: Final = {State.UP: 1, State.DRAINING: 2, State.LEFT: 3}
STATE_OF: Final = {number: state for state, number in STATES.items()}
_T = TypeVar("_T")


def records(name: str, data: bytes, form: struct.Struct, most: int) -> Iterator[tuple[Any, ...]]:
    """Return the records of a list. Raises ValueError if it is cut or too long."""
    if len(data) % form.size:
        raise ValueError(f"{name}: {len(data)} bytes are no multiple of {form.size}")
    if len(data) > most * form.size:
        raise ValueError(f"{name}: {len(data) // form.size} entries, more than {most}")
    return form.iter_unpack(data)


def distinct(name: str, values: Iterable[_T]) -> tuple[_T, ...]:
    """Return the values. Raises ValueError if one is there twice."""
    found = tuple(values)
    if len(set(found)) != len(found):
        raise ValueError(f"{'an' if name[0] in 'aeiou' else 'a'} {name} is there twice")
    return found


def check_weights(name: object, weight: int, effective: int) -> None:
    """Raise ValueError if weights are out of their bounds."""
    if not 0 <= weight <= MAX_WEIGHT:
        raise ValueError(f"{name}: weight {weight} is not in 0-{MAX_WEIGHT}")
    if not 0 <= effective <= weight:
        raise ValueError(f"{name}: effective weight {effective} is not in 0-{weight}")
