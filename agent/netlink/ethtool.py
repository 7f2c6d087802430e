# SPDX-License-Identifier: Apache-2.0
"""What an interface's hardware does to packets (ethtool). I/O only."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from typing import Final

_SIOCETHTOOL: Final = 0x8946  # linux/sockios.h
_ETHTOOL_GFLAGS: Final = 0x25  # linux/ethtool.h
_RX_VLAN: Final = 1 << 8
_LARGE_RECEIVE: Final = 1 << 15


def strips_vlan_tags(interface: str) -> bool:
    """Return whether an interface takes VLAN tags off the frames that it receives (rx-vlan-offload).

    False for one without such a setting, or that does not exist.
    """
    return bool(_flags(interface) & _RX_VLAN)


def merges_packets(interface: str) -> bool:
    """Return whether an interface merges packets that it receives in hardware (large-receive-offload)."""
    return bool(_flags(interface) & _LARGE_RECEIVE)


def _flags(interface: str) -> int:
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GFLAGS, 0), 8)  # struct ethtool_value
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError:
            return 0
    return int(struct.unpack("=II", value.raw)[1])
