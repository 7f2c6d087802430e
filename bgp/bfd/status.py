# SPDX-License-Identifier: Apache-2.0
"""The status file of the BFD process: the state of each session, written by that process, read by the relay.

    bfd.status.json  {neighbor: {"state", "since", "diagnostic", "interval_ms", "detection_ms", "error"}, ...}

A file, not a socket: either process may be killed and restarted, and the other does not notice. Owns the values and
their JSON; file_watch.py reads and replaces the file. Standard library only: the helper archives carry this file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bgp.printable import printable

STATUS_NAME = "bfd.status.json"


@dataclass(frozen=True, slots=True)
class BfdStatus:
    """The BFD session with one neighbor.

    `state`: up, init, down or admin_down. `since`: the last change of state, in seconds of CLOCK_MONOTONIC.
    `diagnostic`: why the session last went down, "" while it is up or never was. `interval_ms`: between two packets
    that we send; `detection_ms`: the detection time, 0 while there is no neighbor. `error`: why no session is possible.
    """

    state: str
    since: float
    diagnostic: str = ""
    interval_ms: float = 0
    detection_ms: float = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this status."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BfdStatus:
        """Read what `to_json` returned. ValueError, KeyError or TypeError for anything else."""
        error = value["error"]
        return cls(
            printable(str(value["state"])),
            _finite(value["since"]),
            printable(str(value["diagnostic"])),
            _finite(value["interval_ms"]),
            _finite(value["detection_ms"]),
            None if error is None else printable(str(error)),
        )


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{value!r:.20} is too large") from None
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def encode_statuses(statuses: Mapping[str, BfdStatus]) -> bytes:
    """Return the content of the status file, by neighbor address."""
    return json.dumps({neighbor: status.to_json() for neighbor, status in statuses.items()}).encode()


def decode_statuses(text: bytes) -> dict[str, BfdStatus]:
    """Read the status file; empty when it cannot be read, because it serves for display only."""
    try:
        return {str(neighbor): BfdStatus.from_json(value) for neighbor, value in json.loads(text or b"{}").items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
