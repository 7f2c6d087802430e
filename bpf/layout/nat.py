# SPDX-License-Identifier: Apache-2.0
"""What the NAT program knows of its node: pools, slots and times. nat_backend.py has the backends, session.py the
sessions.

nat_layout.h describes the structs. A slot number is a NAT endpoint: `endpoint` and `slot_of` translate.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from bpf.layout.address import Address, Network
from bpf.layout.c_struct import CStruct
from bpf.layout.service import Forward
from bpf.layout.session import TICK_SHIFT, WAYS, SessionState

NAT_ROWS: Final = 4096
"""Rows of NAT: the first of its table's."""
NAT_PARSED_SIZE: Final = 128
"""Bytes for a packet that one of NAT's programs leaves to the next."""
PORT_BITS: Final = 15
FIRST_PORT: Final = 0x8000
"""NAT ports are 32,768 to 65,535."""
SESSIONS_MIN: Final = 1 << 16
SESSIONS_MAX: Final = 1 << 24


class NatFlag(IntFlag):
    """The flags of `struct nat_conf`; nat_layout.h defines each."""

    WATCHED = 1
    MOVING = 2


class Timeout(IntEnum):
    """After what time without a packet a session is free.

    SYN_FULL: a half-open one, while its bucket has no other room. CLOSED, or CLOSED_BY_BACKEND if the backend closed
    first, count from then. UDP is without a reply yet, UDP_BOTH with one.
    """

    SYN = 0
    SYN_FULL = 1
    EST = 2
    FIN = 3
    CLOSED = 4
    CLOSED_BY_BACKEND = 5
    UDP = 6
    UDP_BOTH = 7


TIMEOUTS_S: Final = {
    Timeout.SYN: 30,
    Timeout.SYN_FULL: 5,
    Timeout.EST: 3600,
    Timeout.FIN: 60,
    Timeout.CLOSED: 2,
    Timeout.CLOSED_BY_BACKEND: 60,
    Timeout.UDP: 30,
    Timeout.UDP_BOTH: 180,
}
"""Seconds. RFC 4787 wants two minutes or more for UDP that goes both ways; TIME-WAIT lasts a minute in Linux."""

_REST_STATES: Final = 16
_NEVER: Final = 1 << 40

NAT_CONF_STRUCT: Final = CStruct(
    "nat_conf",
    (
        ("last4", "4s"),
        ("hosts4", "4s"),
        ("last6", "16s"),
        ("hosts6", "4s"),
        ("former4", "4s"),
        ("former6", "16s"),
        ("bucket_bits", "B"),
        ("former_bits", "B"),
        ("table", "H"),
        ("flags", "H"),
        ("hops", "2H"),
        ("mss", "2H"),
        ("up", "B"),
        ("forward", "B"),
        ("rest", f"{_REST_STATES}q"),
    ),
)
_FLAGS_AT: Final = NAT_CONF_STRUCT.offsets()["flags"]


def ticks(seconds: float) -> int:
    """Return a time in ticks, rounded up."""
    return -(-int(seconds * 1_000_000_000) >> TICK_SHIFT)


def pool_addresses(sessions: int) -> int:
    """Return how many addresses of a pool so many sessions use: the first ones."""
    return sessions >> PORT_BITS


def endpoint(pool: Network, slot: int) -> tuple[Address, int]:
    """Return a slot's NAT address and port."""
    return pool[slot >> PORT_BITS], FIRST_PORT | slot & (1 << PORT_BITS) - 1


def slot_of(pool: Network, address: Address, port: int) -> int:
    """Return the slot of a NAT address and port."""
    return int(address) - int(pool[0]) << PORT_BITS | port & (1 << PORT_BITS) - 1


def row_of_slot(slot: int) -> int:
    """Return the row that a slot is in: that of its port, so it is the same among any number of slots."""
    return slot // WAYS % NAT_ROWS


@dataclass(frozen=True)
class NatConf:
    """What the NAT program knows of its own node.

    `sessions` (a power of two, SESSIONS_MIN to SESSIONS_MAX) and the pools are the cluster's. New sessions get
    addresses of `pool` and `pool6`, and among so many `sessions` their slots; those of `former` and `former6`, and
    those that began among `former_sessions`, are served too: other pools or another number, not both. `table` is the
    slot of the table of rows. `hop4` and `hop6` are the next hops to clients, 0 for none; `mss4` and `mss6` the largest
    MSS, 0 for any. `up`: this node takes new sessions. `watched`: changes of tags go to the ring buffer.
    """

    sessions: int
    table: int
    pool: IPv4Network | None = None
    pool6: IPv6Network | None = None
    forward: Forward = Forward.GUE
    up: bool = True
    hop4: int = 0
    hop6: int = 0
    mss4: int = 0
    mss6: int = 0
    watched: bool = False
    former: IPv4Network | None = None
    former6: IPv6Network | None = None
    former_sessions: int | None = None

    @property
    def slots(self) -> int:
        """The slots that sessions may have, and so the addresses of the pools that are used."""
        return max(self.sessions, self.former_sessions or 0)

    def pack(self) -> bytes:
        """Encode as `struct nat_conf`."""
        former = self.former_sessions or self.sessions
        for sessions in (self.sessions, former):
            _check_sessions(sessions)
        hosts = pool_addresses(self.slots) - 1
        bits4, bits6 = ((hosts if pool else 0).to_bytes(4, "big") for pool in (self.pool, self.pool6))
        return NAT_CONF_STRUCT.codec.pack(
            self._last(self.pool, 4), bits4, self._last(self.pool6, 16), bits6,
            self._last(self.former or self.pool, 4), self._last(self.former6 or self.pool6, 16),
            bucket_bits(self.sessions), bucket_bits(former), self.table, self.watched * NatFlag.WATCHED,
            self.hop4, self.hop6, self.mss4, self.mss6, self.up, self.forward, *_rests(),
        )  # fmt: skip

    def _last(self, pool: Network | None, size: int) -> bytes:
        """Return the last address that sessions use of a pool."""
        if pool is None:
            return bytes(size)
        count = pool_addresses(self.slots)
        if pool.num_addresses < count:
            raise ValueError(f"pool {pool}: {count} addresses are wanted for {self.slots} sessions")
        return pool[count - 1].packed


def _rests() -> list[int]:
    """Return the ticks after which a new session may take a slot, by twice the state, and 1 for CLOSED_BY_BACKEND.

    The agent frees what is established or closing.
    """
    rests = [0, 0, *[_NEVER] * (_REST_STATES - 2)]  # FREE is 0
    for state, timeouts in {
        SessionState.SYN: (Timeout.SYN_FULL, Timeout.SYN_FULL),
        SessionState.BUSY: (Timeout.SYN_FULL, Timeout.SYN_FULL),
        SessionState.CLOSED: (Timeout.CLOSED, Timeout.CLOSED_BY_BACKEND),
    }.items():
        rests[2 * state : 2 * state + 2] = [ticks(TIMEOUTS_S[one]) for one in timeouts]
    return rests


def _check_sessions(sessions: int) -> None:
    if sessions & (sessions - 1) or not SESSIONS_MIN <= sessions <= SESSIONS_MAX:
        raise ValueError(f"sessions: {sessions} is not a power of two in {SESSIONS_MIN}-{SESSIONS_MAX}")


def bucket_bits(sessions: int) -> int:
    """Return the bits of a bucket's number in its row, with so many sessions."""
    return (sessions // NAT_ROWS // WAYS).bit_length() - 1


def unpack_conf(data: bytes) -> "NatConf | None":
    """Decode `struct nat_conf`; None if it was never written. The pools are the addresses that sessions use."""
    last4, hosts4, last6, hosts6, former4, former6, *rest = NAT_CONF_STRUCT.codec.unpack(data)
    bits, former_bits, table, flags, hop4, hop6, mss4, mss6, up, forward, *rests = rest
    if not any(rests):
        return None
    return NatConf(
        _sessions(bits), table, _pool4(last4, hosts4), _pool6(last6, hosts6), Forward(forward), bool(up),
        hop4, hop6, mss4, mss6, bool(flags & NatFlag.WATCHED),
        _pool4(former4, hosts4) if former4 != last4 else None, _pool6(former6, hosts6) if former6 != last6 else None,
        _sessions(former_bits) if former_bits != bits else None,
    )  # fmt: skip


def _sessions(bits: int) -> int:
    return NAT_ROWS * WAYS << bits


def has_flag(conf: bytes, flag: NatFlag) -> bool:
    """Return whether a packed conf has a flag."""
    return bool(_flags(conf) & flag)


def with_flag(conf: bytes, flag: NatFlag, on: bool) -> bytes:
    """Return a packed conf with a flag, or without it."""
    flags = _flags(conf) & ~flag | (flag if on else 0)
    return conf[:_FLAGS_AT] + flags.to_bytes(2, "little") + conf[_FLAGS_AT + 2 :]


def _flags(conf: bytes) -> int:
    return int.from_bytes(conf[_FLAGS_AT : _FLAGS_AT + 2], "little")


def _pool4(last: bytes, hosts: bytes) -> IPv4Network | None:
    size = int.from_bytes(hosts, "big").bit_length()
    return IPv4Network((int(IPv4Address(last)) >> size << size, 32 - size)) if any(last) else None


def _pool6(last: bytes, hosts: bytes) -> IPv6Network | None:
    size = int.from_bytes(hosts, "big").bit_length()
    return IPv6Network((int(IPv6Address(last)) >> size << size, 128 - size)) if any(last) else None
