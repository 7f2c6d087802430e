# SPDX-License-Identifier: Apache-2.0
"""Why a probe failed, in a few words that are safe to print. Pure."""

from __future__ import annotations

from bgp.printable import escaped

SHOWN = 100
"""The most characters of what a service sent that a reason quotes."""


class ProbeFailed(Exception):
    """The service, or the program that checks it, did not answer as configured."""


class SocketElsewhere(ProbeFailed):
    """The service answers, but its sockets are not where the data path looks for them."""


class NodeReason(str):
    """A reason that is a problem of the node, whatever the service answers."""


def shown(sent: bytes | str) -> str:
    """Return the start of what a service sent: no character that a terminal would act upon."""
    text = sent.decode("utf-8", "backslashreplace") if isinstance(sent, bytes) else sent
    start = escaped(text[: SHOWN + 1])
    return start if len(start) <= SHOWN else start[:SHOWN] + "…"
