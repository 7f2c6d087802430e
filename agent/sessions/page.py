# SPDX-License-Identifier: Apache-2.0
"""Sessions as the agent sends them to lbctl: pages of raw records, which lbctl decodes. Pure.

So a list of a million costs the agent a copy of their memory, and lbctl the formatting. A page is a line of JSON:

    {"version": 4, "now": 81234, "rows": "..."}

`now` is the tick of the page, `rows` the base64 of its rows: `PAGE_ROW[version]`. A page of events also has `missed`:
how many events before it did not reach the watcher.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.address import endpoint
from agent.sessions.cause import Cause
from agent.sessions.tag_array import Slots, Tags
from bpf.layout.nat import row_of_slot
from bpf.layout.session import TICK_SHIFT, SessionState, TagFlag
from bpf.maps.session_dtype import SESSION4_DTYPE, SESSION6_DTYPE

Rows = npt.NDArray[Any]

PAGE_ROW: Final = {
    version: np.dtype(
        [("slot", "<u4"), ("known", "<u2"), ("cause", "<u2"), ("before", "<u8"), ("tag", "<u8"), ("record", record)]
    )
    for version, record in ((4, SESSION4_DTYPE), (6, SESSION6_DTYPE))
}
"""A session, by IP version. Of an event, `before` is its tag before the change and `cause` a Cause. `known` 0: the
record is another's."""
STATE_NAMES: Final[Mapping[str, SessionState]] = {
    "half-open": SessionState.SYN,
    "established": SessionState.EST,
    "closing": SessionState.FIN,
    "closed": SessionState.CLOSED,
    "free": SessionState.FREE,
}
"""The states as operators know them. A UDP session without an answer is half-open too."""
_NAMES: Final[Mapping[int, str]] = {
    SessionState.BUSY: "claimed",
    SessionState.RESERVED: "reserved",
    **{state: name for name, state in STATE_NAMES.items()},
}
_CAUSES: Final = {cause.value: cause.name.lower() for cause in Cause}
_PORTS: Final = {end: f"{end}_port" for end in ("client", "vip", "nat", "backend")}
_PLAIN: Final = TagFlag.UDP | TagFlag.IPV6  # what a session's protocol and addresses show
_PROTOCOLS: Final = {6: "tcp", 17: "udp"}


@dataclass(frozen=True, slots=True)
class Names:
    """What numbers of records mean on this node."""

    services: Mapping[int, str]
    """By slot."""


def rows_of(version: int, slots: Slots, tags: Tags, records: Rows, before: Tags | None = None) -> Rows:
    """Return the rows of a page. All arguments have the same length."""
    rows = np.zeros(len(slots), PAGE_ROW[version])
    rows["slot"], rows["known"], rows["tag"], rows["record"] = slots, 1, tags, records
    if before is not None:
        rows["before"] = before
    return rows


def encode(version: int, now: int, rows: Rows, missed: int | None = None) -> bytes:
    """Return the line of a page; with `missed`, its rows are events."""
    head = f'{{"version": {version}, "now": {now}, ' + ("" if missed is None else f'"missed": {missed}, ')
    return b'%s"rows": "%s"}\n' % (head.encode(), base64.b64encode(rows.tobytes()))  # json would look at each byte


def decode(page: Mapping[str, Any], names: Names) -> Iterator[dict[str, Any]]:
    """Yield the sessions of a page as `lbctl -o json` prints them."""
    rows = np.frombuffer(base64.b64decode(page["rows"]), PAGE_ROW[page["version"]])
    return sessions(page["version"], page["now"], rows, names, "missed" in page)


def sessions(version: int, now: int, rows: Rows, names: Names, events: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a dictionary for each row; those of events have the state before."""
    record, size = rows["record"], 4 if version == 4 else 16
    addresses = {end: record[end].tobytes() for end in _PORTS}
    column = {name: record[name].tolist() for name in ("protocol", "service_slot", "created", *_PORTS.values())}
    for i, (slot, known, cause, before, tag) in enumerate(rows[["slot", "known", "cause", "before", "tag"]].tolist()):
        session = {"slot": slot, "row": row_of_slot(slot), **_tag(tag, now)}
        if events:
            session["before"], session["cause"] = state_name(before), _CAUSES[cause]
        if known:
            for end, port in _PORTS.items():
                session[end] = _endpoint(addresses[end][i * size : (i + 1) * size], column[port][i])
            number = column["service_slot"][i]
            session["service"] = names.services.get(number, f"slot {number}")
            session["protocol"] = _PROTOCOLS.get(column["protocol"][i], "?")
            session["age_s"] = _seconds(_ticks_since(column["created"][i], now))
        yield session


def state_name(tag: int) -> str:
    """Return the name of the state in a tag."""
    return _NAMES.get(tag >> 40 & 0xFF, "?")


def _tag(tag: int, now: int) -> dict[str, Any]:
    return {
        "state": state_name(tag),
        "idle_s": _seconds(_ticks_since(tag, now)),
        "flags": list(_flags(tag >> 32 & 0xFF)),
    }


@functools.lru_cache(256)
def _flags(number: int) -> tuple[str, ...]:
    flags = TagFlag(number) & ~_PLAIN
    return tuple(str(flag.name).lower() for flag in TagFlag if flag in flags)


@functools.lru_cache(1 << 16)
def _endpoint(data: bytes, port: int) -> str:
    """Return an endpoint as text. Of a list's, those of VIPs and backends come again and again."""
    return endpoint(IPv4Address(data) if len(data) == 4 else IPv6Address(data), port)


def _ticks_since(stamp: int, now: int) -> int:
    """Return the ticks since a stamp, in its low 32 bits; below 0 if it came after `now`.

    Ticks wrap: a session that another node gave this one may be older than this one's clock.
    """
    return (now - stamp & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)


def _seconds(count: int) -> int:
    return max(0, round((count << TICK_SHIFT) / 1e9))
