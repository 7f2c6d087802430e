# SPDX-License-Identifier: Apache-2.0
"""The order in which a node joins the rows of two epochs into one chain.

`struct conf` carries it to the program, so the program follows whatever is stated here; chain.h gives the reasons.
"""

from typing import Final

from bpf.layout.limits import CHAIN

CLAIMS: Final = 4
"""The place from which on the rest of a row comes last."""


def join_order(alternating: bool) -> bytes:
    """Return JOINED_PLACES places: of the first row as they are, of the other epoch's row CHAIN more.

    Alternating, the places of both rows take turns; else the other's come last.
    """
    first, other = range(4), range(CHAIN, CHAIN + 3)
    if not alternating:
        return bytes((*first, *other))
    turns = [place for both in zip(first, (*other, None), strict=True) for place in both if place is not None]
    return bytes(turns)


def last_places() -> bytes:
    """Return the places that follow, as far as the joined chain has room: in turn of both rows, from CLAIMS on."""
    return bytes(CLAIMS + k // 2 + (CHAIN if k % 2 else 0) for k in range(2 * (CHAIN - CLAIMS)))
