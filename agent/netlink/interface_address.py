# SPDX-License-Identifier: Apache-2.0
"""An address of an interface, and the request for all of them (linux/if_addr.h). Pure."""

from __future__ import annotations

import struct
from typing import Final

from agent.address import Address
from agent.netlink.message import NLM_F_DUMP, RTM_GETADDR, Request, address, attributes

InterfaceAddress = tuple[int, Address]
"""The index of an interface, and an address of it."""

_IFADDRMSG: Final = struct.Struct("=BBBBi")
"""struct ifaddrmsg: family, prefix length, flags, scope, interface."""
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2


def addresses_request() -> Request:
    """Return the request for the addresses of all interfaces, of both families."""
    return Request(RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0), NLM_F_DUMP)


def interface_address_from(body: bytes) -> InterfaceAddress | None:
    """Return the address that an RTM_NEWADDR describes; None if it is neither IPv4's nor IPv6's.

    On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL this one; IPv6 mostly has the former alone.
    """
    if len(body) < _IFADDRMSG.size:
        return None
    found = attributes(body, _IFADDRMSG.size)
    own = address(found.get(_IFA_LOCAL)) or address(found.get(_IFA_ADDRESS))
    return (_IFADDRMSG.unpack_from(body)[4], own) if own is not None else None
