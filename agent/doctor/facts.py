# SPDX-License-Identifier: Apache-2.0
"""What is known of a machine, for the judgment. Pure; machine.py reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agent.address import Address


@dataclass(frozen=True)
class InterfaceFacts:
    """One interface of `node.interfaces`."""

    exists: bool
    up: bool | None = None
    mtu: int | None = None
    large_receive: bool | None = None
    """Whether the card merges packets (LRO), which no driver allows beside native XDP."""
    strips_tags: bool | None = None
    strict_filter: bool | None = None
    arp_ignore: int | None = None
    arp_announce: int | None = None


@dataclass(frozen=True)
class MachineFacts:
    """What the machine is like. Bytes for memory and disks, by folder."""

    root: bool
    kernel: tuple[int, int] | None
    jit: bool | None
    bpf_file_system: bool
    interfaces: Mapping[str, InterfaceFacts]
    vips_here: Mapping[Address, bool]
    listening: Mapping[str, bool | None]
    """By service: whether some socket listens on its port."""
    clock_synchronized: bool | None
    free: Mapping[str, int]
    memory_available: int | None


class TcpCount(NamedTuple):
    """Connections accepted, and RST segments sent, since the network namespace was made."""

    accepted: int
    resets: int
