# SPDX-License-Identifier: Apache-2.0
"""The filter of the echo's UDP socket: what the kernel may queue at all. Pure: builds a classic BPF program.

Whoever can send to the port could fill the socket's buffer, so that answers are lost and living nodes look silent. So
only datagrams from node prefixes that begin as an echo or a message of the channel are queued, and none from the node's
own address, which is the only one that its local users have. Forged sources remain: the edge must drop packets from
outside that claim a node's address.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import ip_network

from agent.address import Address, Network

MAGICS = (0x4C424543, 0x4C424348)
"""The first words of an echo ("LBEC") and of a message of the channel ("LBCH")."""
MAX_INSTRUCTIONS = 4096
_LOAD_WORD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_PAYLOAD = 8  # after the UDP header, where such a filter's data begin
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF of linux/filter.h
_SOURCE = {4: 12, 6: 8}
_ALL, _NONE = 0xFFFF, 0


def socket_filter(version: int, prefixes: Iterable[Network], own: Address | None = None) -> bytes:
    """Return the program for a socket of an IP version; without a prefix of that version it accepts any source but
    `own`, this node's address.

    Prefixes that no longer fit into the program are left out.
    """
    program = [_op(_LOAD_WORD, _PAYLOAD), _op(_JUMP_EQUAL, MAGICS[0], 2, 0), _op(_JUMP_EQUAL, MAGICS[1], 1, 0)]
    program.append(_op(_RETURN, _NONE))
    if own is not None:
        program += _check(ip_network(own), _NONE)
    checks = [_check(prefix) for prefix in prefixes if prefix.version == version]
    for check in checks:
        if len(program) + len(check) < MAX_INSTRUCTIONS:
            program += check
    program.append(_op(_RETURN, _NONE if checks else _ALL))
    return b"".join(program)


def _check(prefix: Network, verdict: int = _ALL) -> list[bytes]:
    """Return the instructions that end with the verdict for a source in a prefix, and go on after them otherwise."""
    address, mask = prefix.network_address.packed, prefix.netmask.packed
    words = [
        (at, int.from_bytes(address[at : at + 4]), int.from_bytes(mask[at : at + 4]))
        for at in range(0, len(mask), 4)
        if any(mask[at : at + 4])
    ]
    check: list[bytes] = []
    for i, (at, value, bits) in enumerate(words):
        left = 3 * (len(words) - 1 - i) + 1
        check.append(_op(_LOAD_WORD, _NETWORK_HEADER + _SOURCE[prefix.version] + at))
        check.append(_op(_AND, bits))
        check.append(_op(_JUMP_EQUAL, value, 0, left))
    return [*check, _op(_RETURN, verdict)]


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
