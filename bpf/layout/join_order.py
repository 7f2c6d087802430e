# SPDX-License-Identifier: Apache-2.0
"""The order in which a node joins the rows of two epochs into one chain.

`struct conf` carries it to the program, so the program follows whatever is stated here; chain.h gives the reasons.
"""

from bpf.layout.limits import CHAIN


def join_order(alternating: bool) -> bytes:
    """Return JOINED_PLACES places: of the first row as they are, of the other epoch's row CHAIN more.

    Alternating, the places of both rows take turns; else the other's come last.
    """
    first, other = range(4), range(CHAIN, CHAIN + 3)
    if not alternating:
        return bytes((*first, *other))
    turns = [place for both in zip(first, (*other, None), strict=True) for place in both if place is not None]
    return bytes(turns)
