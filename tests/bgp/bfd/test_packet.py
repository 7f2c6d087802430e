# SPDX-License-Identifier: Apache-2.0
"""BFD control packets: the layout of RFC 5880, and the packets that section 6.8.6 discards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.packet import Diagnostic, Packet, SessionState, decode

FIRST = Packet(SessionState.DOWN, 3, 7, 0, 1_000_000, 300_000)


def test_packet_has_the_layout_of_the_rfc():
    packet = Packet(SessionState.UP, 3, 0x01020304, 0x0A0B0C0D, 300_000, 50_000, Diagnostic.NEIGHBOR_DOWN, poll=True)
    wire = "23 e0 03 18 01020304 0a0b0c0d 000493e0 0000c350 00000000"
    assert packet.encode() == bytes.fromhex(wire.replace(" ", ""))
    assert decode(packet.encode()) == packet


GOOD = replace(FIRST, state=SessionState.UP, your_discriminator=9).encode()


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("empty", b""),
        ("truncated", GOOD[:23]),
        ("length field longer than the data", GOOD[:3] + bytes([25]) + GOOD[4:]),
        ("length field shorter than a packet", GOOD[:3] + bytes([23]) + GOOD[4:]),
        ("version 0", bytes([GOOD[0] & 0x1F]) + GOOD[1:]),
        ("version 2", bytes([2 << 5]) + GOOD[1:]),
        ("authenticated", GOOD[:1] + bytes([GOOD[1] | 4]) + GOOD[2:]),
        ("multipoint", GOOD[:1] + bytes([GOOD[1] | 1]) + GOOD[2:]),
        ("multiplier 0", GOOD[:2] + b"\0" + GOOD[3:]),
        ("my discriminator 0", GOOD[:4] + bytes(4) + GOOD[8:]),
        ("Up without your discriminator", GOOD[:8] + bytes(4) + GOOD[12:]),
        ("Init without your discriminator", replace(FIRST, state=SessionState.INIT).encode()),
    ],
)
def test_malformed_packet_is_discarded(why: str, data: bytes):
    assert decode(GOOD) is not None
    assert decode(data) is None, why


def test_bytes_after_the_packet_are_ignored():
    assert decode(GOOD + b"more") == decode(GOOD)


@given(st.binary(max_size=60))
def test_no_input_raises(data: bytes):
    decode(data)
