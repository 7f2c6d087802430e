# SPDX-License-Identifier: Apache-2.0
"""The bytes of IP packets that NAT mode changes: addresses, ports, MSS, what ICMP errors quote, and RSTs that it makes.

Packets are whole IP packets that the parser accepted (bpf/reference/nat.py decides about them), without what follows
them in the frame. Checksums are updated, not computed (RFC 1624), so a wrong one stays wrong. RFC 5508 section 4 is how
a NAT treats ICMP errors; other than there, the source of an error becomes the session's own: clients never see an
address of a backend's network, and backends need no route to the internet to accept an error.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bpf.layout.address import Address
from bpf.layout.service import Protocol

_ICMP, _ICMP6 = 1, 58
_CHECK_AT: Final = {Protocol.TCP: 16, Protocol.UDP: 6, _ICMP: 2, _ICMP6: 2}
"""The offset of the checksum in the header."""
_EXTENSIONS: Final = (0, 43, 44, 60)
_ADDRESS_AT: Final = {4: (12, 16), 6: (8, 24)}
_MSS_OPTION: Final = 2
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_TTL: Final = 64


@dataclass(frozen=True)
class Ends:
    """Addresses and ports of a packet: source and destination."""

    source: Address
    source_port: int
    target: Address
    target_port: int

    def reversed(self) -> "Ends":
        """Return those of the packets of the other direction."""
        return Ends(self.target, self.target_port, self.source, self.source_port)


def translate(packet: bytes, ends: Ends, mss: int = 0) -> bytes:
    """Return a TCP or UDP packet with these ends, one hop older; a SYN with an MSS option of `mss` at most (0: any)."""
    data = bytearray(packet)
    protocol, at = _payload(packet, 0)
    _age(data)
    _rewrite(data, 0, ends, _transport_checks(data, protocol, at))
    if mss and protocol == Protocol.TCP and data[at + 13] & _SYN:
        _clamp(data, at, mss)
    return bytes(data)


def translate_error(packet: bytes, ends: Ends, quoted: Ends) -> bytes:
    """Return an ICMP error with these ends, of which only the addresses count, that quotes a packet of `quoted` ends.

    The quote may end after the ports: a transport checksum in it is updated if it is there.
    """
    data = bytearray(packet)
    protocol, at = _payload(packet, 0)
    check, inner = at + 2, at + 8
    _age(data)
    _write_addresses(data, 0, ends, [check] if protocol == _ICMP6 else [])
    inner_protocol, ports = _payload(packet, inner)
    # All that changes in the quote is in the error's checksum, its checksums too.
    checks = [where for where in _transport_checks(data, inner_protocol, ports) if where + 2 <= len(data)]
    before = bytes(data)
    _rewrite(data, inner, quoted, checks)
    changed = (word for word in range(inner, len(data) - 1, 2) if before[word : word + 2] != data[word : word + 2])
    for word in changed:
        _update(data, check, before[word : word + 2], bytes(data[word : word + 2]))
    return bytes(data)


def reset_for(packet: bytes) -> bytes | None:
    """Return the RST that answers a TCP segment without a connection (RFC 9293 section 3.5.2, group 1).

    With the number that the segment acknowledges, or else acknowledging all of it. None: the segment is an RST itself.
    """
    protocol, at = _payload(packet, 0)
    source_port, target_port, number, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", packet, at)
    if protocol != Protocol.TCP or flags & _RST:
        return None
    length = len(packet) - at - (offset >> 4) * 4 + bool(flags & _SYN) + bool(flags & _FIN)
    numbers = (acknowledged, 0, _RST) if flags & _ACK else (0, number + length & 0xFFFF_FFFF, _RST | _ACK)
    sequence, acknowledgment, kind = numbers
    six = packet[0] >> 4 == 6
    source, target = _ADDRESS_AT[6 if six else 4]
    size = 16 if six else 4
    ends = packet[target : target + size] + packet[source : source + size]
    segment = struct.pack("!HHIIBBHHH", target_port, source_port, sequence, acknowledgment, 5 << 4, kind, 0, 0, 0)
    check = _checksum(ends + struct.pack("!HH", Protocol.TCP, len(segment)) + segment)
    segment = segment[:16] + struct.pack("!H", check) + segment[18:]
    if six:
        return struct.pack("!IHBB", 6 << 28, len(segment), Protocol.TCP, _TTL) + ends + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, _TTL, Protocol.TCP, 0) + ends
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + segment


def _payload(packet: bytes, at: int) -> tuple[int, int]:
    """Return the protocol of the IP packet at an offset, and the offset of what it carries."""
    if packet[at] >> 4 == 4:
        return packet[at + 9], at + (packet[at] & 0xF) * 4
    protocol, behind = packet[at + 6], at + 40
    while protocol in _EXTENSIONS:
        size = 8 if protocol == 44 else (packet[behind + 1] + 1) * 8
        protocol, behind = packet[behind], behind + size
    return protocol, behind


def _transport_checks(data: bytearray, protocol: int, at: int) -> list[int]:
    """Return where the checksum is that covers addresses and ports; nowhere if UDP has none (RFC 768)."""
    check = at + _CHECK_AT[protocol]
    return [] if protocol == Protocol.UDP and not any(data[check : check + 2]) else [check]


def _age(data: bytearray) -> None:
    """Decrement the TTL or hop limit."""
    if data[0] >> 4 == 4:
        _write(data, 8, bytes([data[8] - 1]), [10])
    else:
        data[7] -= 1


def _rewrite(data: bytearray, ip: int, ends: Ends, checks: list[int]) -> None:
    """Write addresses and ports of the packet whose IP header is at `ip`; update the transport's checksum too."""
    protocol, at = _payload(bytes(data), ip)
    _write_addresses(data, ip, ends, checks)
    _write(data, at, struct.pack("!HH", ends.source_port, ends.target_port), checks)
    for check in checks if protocol == Protocol.UDP else []:
        if not any(data[check : check + 2]):
            data[check : check + 2] = b"\xff\xff"


def _write_addresses(data: bytearray, ip: int, ends: Ends, checks: list[int]) -> None:
    version = data[ip] >> 4
    header = [ip + 10] if version == 4 else []
    for at, address in zip(_ADDRESS_AT[version], (ends.source, ends.target), strict=True):
        _write(data, ip + at, address.packed, header + checks)


def _clamp(data: bytearray, at: int, mss: int) -> None:
    """Lower the MSS options of the TCP header at an offset (RFC 9293 section 3.7.1); they may be at odd places."""
    for option in _options(data, at):
        value = int.from_bytes(data[option + 2 : option + 4], "big")
        if data[option] == _MSS_OPTION and data[option + 1] == 4 and value > mss:
            _write(data, option + 2, mss.to_bytes(2, "big"), [at + 16])


def _options(data: bytearray, at: int) -> Iterator[int]:
    """Yield where the options of a TCP header begin that are longer than a byte, until one is damaged."""
    place, end = at + 20, at + (data[at + 12] >> 4) * 4
    while place < end and data[place]:
        if data[place] == 1:
            place += 1
            continue
        if place + 1 >= end or data[place + 1] < 2 or place + data[place + 1] > end:
            return
        yield place
        place += data[place + 1]


def _write(data: bytearray, at: int, value: bytes, checks: list[int]) -> None:
    """Overwrite bytes; update the checksums at these offsets, which cover them. Words begin at even offsets."""
    start, end = at & ~1, at + len(value) + 1 & ~1
    before = bytes(data[start:end])
    data[at : at + len(value)] = value
    for check in checks:
        _update(data, check, before, bytes(data[start:end]))


def _update(data: bytearray, check: int, before: bytes, after: bytes) -> None:
    """Update a checksum for bytes that changed: HC' = ~(~HC + ~m + m') (RFC 1624)."""
    total = int.from_bytes(data[check : check + 2], "big") ^ 0xFFFF
    for old, new in zip(_words(before), _words(after), strict=True):
        total += (old ^ 0xFFFF) + new
    data[check : check + 2] = (_fold(total) ^ 0xFFFF).to_bytes(2, "big")


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"!{len(data) // 2}H", data)


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    return _fold(sum(_words(data))) ^ 0xFFFF
