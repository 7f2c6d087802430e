# SPDX-License-Identifier: Apache-2.0
"""What is well with the traffic of this machine: paths too narrow for its packets, connections that it resets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from agent.address import Address
from agent.doctor.facts import TcpCount
from agent.doctor.findings import Finding, State

MIN_RESETS: Final = 5
MIN_SHARE: Final = 0.1
"""Of the connections accepted in the same time. Clients that go away make the kernel send some resets too."""


def path_findings(largest: Mapping[Address, int | None], mtu: int) -> Iterator[Finding]:
    """Yield what was found on the paths to other nodes and routers, by the largest packets that they answer."""
    narrow = {address: size for address, size in largest.items() if size is not None and size < mtu}
    wide = sum(size == mtu for size in largest.values())
    for address, size in narrow.items():
        yield Finding(
            f"path to {address}", State.FAILED, f"a packet of {mtu} bytes is lost, one of {size} arrives: "
            "large requests and uploads hang", f"see the MTU of both ends and of each switch between: {mtu} on all",
        )  # fmt: skip
    silent = [address for address, size in largest.items() if size is None]
    if silent:
        yield Finding(
            "paths", State.SKIPPED, f"{', '.join(map(str, silent[:3]))} and so on answer no ping"
            if len(silent) > 3 else f"{', '.join(map(str, silent))}: no answer to a ping",
            "permit ICMP echo between nodes and routers, to have path MTUs checked",
        )  # fmt: skip
    if wide:
        yield Finding("paths", State.OK, f"{wide} nodes and routers answer packets of {mtu} bytes")


def resets_many(resets: float, accepted: float) -> bool:
    """Return whether a second's resets are more than clients that go away cause."""
    return resets >= MIN_RESETS and resets >= MIN_SHARE * accepted


def reset_finding(before: TcpCount | None, after: TcpCount | None, seconds: float) -> Finding:
    """Return whether this machine reset connections between two counts."""
    if before is None or after is None:
        return Finding("connections", State.SKIPPED, "the kernel does not count them")
    accepted, resets = after.accepted - before.accepted, after.resets - before.resets
    counted = f"{resets} resets sent, {accepted} connections accepted in {seconds:.1f} s"
    if not resets_many(resets, accepted):
        return Finding("connections", State.OK, counted)
    return Finding(
        "connections", State.WARNING, f"this machine resets connections: {counted}",
        "see its servers' logs, and whether the server that was deployed here last is the right one; "
        "`lbctl connections` shows whose they are",
    )  # fmt: skip
