# SPDX-License-Identifier: Apache-2.0
"""The kernel's counts of TCP connections in this network namespace: accepted, and reset from here. I/O only."""

from __future__ import annotations

from pathlib import Path

from agent.doctor.facts import TcpCount


def read_tcp_count(path: Path = Path("/proc/net/snmp")) -> TcpCount | None:
    """Return the counts of proc(5), /proc/net/snmp; None if the kernel does not show them."""
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.startswith("Tcp:")]
        counts = dict(zip(*lines, strict=True))
        return TcpCount(int(counts["PassiveOpens"]), int(counts["OutRsts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
