# SPDX-License-Identifier: Apache-2.0
"""The members that an agent leaves for the next one on the same boot: without them a restart would forget who is lost,
and so change chains for no reason.

1,000 members with 50 services are 3 MB of JSON, and one of them changes at a time. So a member is encoded once as long
as it does not change, and a thread writes the file: nothing that is announced depends on it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from agent import json_value, private_file
from agent.json_value import MONOTONIC_S, U32, U64, real, whole
from agent.model import MAX_WEIGHT, Member, Share, State

log = logging.getLogger("anylb")

RETRY_S = 1.0
MAX_BYTES = 64 << 20


class MemberFile:
    """The file, for its writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: tuple[Member, ...] = ()
        self._written: tuple[Member, ...] = ()
        self._writing = threading.Lock()
        self._error: str | None = None
        self._encoded: dict[int, tuple[Member, str]] = {}
        """By the object's id; the value keeps the object, so that no other gets the same id."""
        self._wake = asyncio.Event()

    def save(self, members: tuple[Member, ...]) -> None:
        """Have these members written soon, unless the same object was the last time."""
        if members is not self._wanted:
            self._wanted = members
            self._wake.set()

    async def run(self) -> None:
        """Write what `save` is given, forever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.to_thread(self.flush)
            if self._error is not None:
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    def flush(self) -> None:
        """Write what is not written yet, after a thread that writes now has ended: the next agent reads the file.

        A failure is logged once: without the file only a restart costs more.
        """
        with self._writing:
            members = self._wanted
            if members is self._written:
                return
            try:
                self._write(members)
                self._written, self._error = members, None
            except OSError as error:
                if self._error != error.strerror:
                    log.error("%s: %s; a restarted agent will not know its members", self._path, error.strerror)
                self._error = error.strerror

    def _write(self, members: tuple[Member, ...]) -> None:
        encoded = {}
        for member in members:
            known = self._encoded.get(id(member))
            encoded[id(member)] = known or (member, json.dumps(_to_json(member)))
        self._encoded = encoded
        private_file.write(self._path, f"[{','.join(text for _, text in encoded.values())}]")


def load(path: Path) -> tuple[Member, ...]:
    """Return the members that an earlier agent left; none if there is no file or it cannot be read."""
    try:
        return tuple(map(_from_json, json_value.decode(private_file.read_own(path, MAX_BYTES))))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()


def _to_json(member: Member) -> dict[str, Any]:
    return {
        "address": str(member.address),
        "epochs": member.epochs,
        "shares": {name: [s.weight, s.effective, s.state, s.announced] for name, s in member.shares.items()},
        "lost": member.lost,
        "since": member.since,
        "why": member.why,
        "address6": str(member.address6) if member.address6 else None,
        "boot": member.boot,
        "version": member.version,
        "silent_since": member.silent_since,
        "changed": member.changed,
        "change": member.change,
    }


def _from_json(entry: dict[str, Any]) -> Member:
    epochs = tuple(whole(epoch, U32) for epoch in entry["epochs"])
    if not epochs:
        raise ValueError("a member without an epoch")
    silent_since = entry.get("silent_since")
    return Member(
        IPv4Address(str(entry["address"])),
        epochs,
        {str(name): _share(*share) for name, share in entry["shares"].items()},
        bool(entry["lost"]),
        real(entry["since"], MONOTONIC_S),
        str(entry["why"]),
        IPv6Address(str(entry["address6"])) if entry.get("address6") else None,
        whole(entry.get("boot", 0), U64),
        whole(entry.get("version", 0), U64),
        None if silent_since is None else real(silent_since, MONOTONIC_S),
        real(entry.get("changed", 0.0), MONOTONIC_S),
        str(entry.get("change", "")),
    )


@lru_cache(4096, typed=True)
def _share(weight: int, effective: int, state: str, announced: bool = True) -> Share:
    return Share(whole(weight, MAX_WEIGHT), whole(effective, MAX_WEIGHT), State(state), bool(announced))
