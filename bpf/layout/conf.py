# SPDX-License-Identifier: Apache-2.0
"""What the program knows of the node that it runs on: `struct conf`."""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Final

from bpf.layout.address import GOLDEN, WORD, Address, fold_address, pack_address
from bpf.layout.c_struct import CStruct
from bpf.layout.join_order import join_order
from bpf.layout.limits import BANKS, JOINED_PLACES, KEY_SIZE, KEY_WORDS

CONF_STRUCT: Final = CStruct(
    "conf",
    (
        ("vip_filter", "Q"),
        ("hash_key", f"{BANKS * KEY_WORDS}Q"),
        ("epoch", f"{BANKS}I"),
        ("again_cost_ns", "I"),
        ("again_burst_ns", "I"),
        ("self", "H"),
        ("self_tag", "H"),
        ("bank", "B"),
        ("two_banks", "B"),
        ("flags", "H"),
        ("order", f"{JOINED_PLACES}s"),
        ("unmetered", "B"),
        ("address", "4s"),
        ("address6", "16s"),
        ("cluster", "I"),
        ("echo_port", "2s"),
        ("pad", "2x"),
        ("zero", "4x"),
    ),
)


class ConfFlag(IntFlag):
    """The flags of `struct conf`; lb.h defines each."""

    DENY = 1
    SAMPLE = 2
    OUTER_4 = 4
    OUTER_6 = 8
    SILENT = 16
    CLASS_E = 32
    DROP_OTHER_PROTOCOLS = 64
    NARROW = 128


_NODE_FLAGS: Final = ConfFlag.OUTER_4 | ConfFlag.OUTER_6 | ConfFlag.CLASS_E | ConfFlag.DROP_OTHER_PROTOCOLS
"""The flags that follow from a NodeConf alone."""


def vip_filter(vips: Iterable[Address]) -> int:
    """Return the 64-bit filter: one bit for each VIP, which rules out most other addresses at once."""
    bits = 0
    for vip in vips:
        bits |= 1 << ((fold_address(vip) * GOLDEN & WORD) >> 26)
    return bits


@functools.cache
def key_words(hash_key: bytes) -> tuple[int, ...]:
    """Return the flow hash's 64-bit words for a cluster's secret of KEY_SIZE bytes: first itself, then derived ones."""
    if len(hash_key) != KEY_SIZE:
        raise ValueError(f"hash_key: {len(hash_key)} bytes given, {KEY_SIZE} wanted")
    derived = hashlib.shake_256(b"anylb flow hash" + hash_key).digest(8 * KEY_WORDS - KEY_SIZE)
    return Struct(f"<{KEY_WORDS}Q").unpack(hash_key + derived)


@dataclass(frozen=True)
class OtherEpoch:
    """The epoch that a node uses besides that of new flows; its tables are in the other bank.

    `alternating`: its places and the first's take turns in the joined chain; else they come last. See chain.h.
    """

    hash_key: bytes
    epoch: int = 0
    alternating: bool = False


@dataclass(frozen=True)
class NodeConf:
    """What the program knows of its own node.

    `self_index` is the node's index in the node table and `self_tag` its tag. `hash_key` (KEY_SIZE bytes) is the
    cluster's secret, the same on all nodes, of the epoch of new flows; its tables are in `bank` (0 or 1), and `epoch`
    is the agent's number of it. `other` is a second epoch that is used too. Forwards with hop >= 2 (where two epochs
    alternate: 3) are limited to `again_per_s` a second on each CPU, `again_burst` of them at once; the clock moves in
    ticks of up to 10 ms, so a burst below 10 ms' worth lowers the rate. `address` and `address6` are this node's own
    ends of tunnels; with None it neither accepts nor sends tunnels of that family. There it answers the echo questions
    (echo.py) of `cluster` that come to UDP port `echo_port`. `class_e`: clients may have addresses of 240.0.0.0/4.
    `drop_other_protocols`: to VIPs, what is neither TCP, UDP nor ICMP is dropped.
    """

    self_index: int
    self_tag: int
    hash_key: bytes
    again_per_s: int = 200_000
    again_burst: int = 4_000
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    bank: int = 0
    epoch: int = 0
    other: OtherEpoch | None = None
    cluster: int = 0
    echo_port: int = 0
    class_e: bool = False
    drop_other_protocols: bool = False

    def pack(self, vip_filter: int, flags: int) -> bytes:
        """Encode as `struct conf`; `vip_filter` and `flags` follow from the contents of other maps."""
        cost_ns = max(1, 1_000_000_000 // self.again_per_s)
        burst_ns = min(cost_ns * self.again_burst, 0xFFFF_FFFF)
        banks = [(key_words(self.hash_key), self.epoch), ((0,) * KEY_WORDS, 0)]
        order, unmetered = bytes(JOINED_PLACES), 1
        flags &= ~_NODE_FLAGS
        flags |= bool(self.address) * ConfFlag.OUTER_4 | bool(self.address6) * ConfFlag.OUTER_6
        flags |= self.class_e * ConfFlag.CLASS_E
        flags |= self.drop_other_protocols * ConfFlag.DROP_OTHER_PROTOCOLS
        if self.other:
            banks[1] = key_words(self.other.hash_key), self.other.epoch
            order, unmetered = join_order(self.other.alternating), 2 if self.other.alternating else 1
        (words, epoch), (more, other) = banks[:: -1 if self.bank else 1]
        return CONF_STRUCT.codec.pack(
            vip_filter, *words, *more, epoch, other, cost_ns, burst_ns, self.self_index, self.self_tag, self.bank,
            bool(self.other), flags, order, unmetered, pack_address(self.address)[:4], pack_address(self.address6),
            self.cluster, self.echo_port.to_bytes(2, "big"),
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> "NodeConf | None":
        """Decode `struct conf`; None if it was never written."""
        fields = CONF_STRUCT.codec.unpack(data)
        at = 1 + BANKS * KEY_WORDS + BANKS
        cost_ns, burst_ns, index, tag, bank, two_banks, flags, _order, unmetered, *rest = fields[at:]
        address, address6, cluster, echo_port = rest
        if not index:
            return None
        keys = [Struct("<2Q").pack(*fields[1 + bank * KEY_WORDS :][:2]) for bank in range(BANKS)]
        epochs = fields[at - BANKS : at]
        other = OtherEpoch(keys[1 - bank], epochs[1 - bank], unmetered == 2) if two_banks else None
        return cls(
            index, tag, keys[bank], 1_000_000_000 // cost_ns, burst_ns // cost_ns,
            IPv4Address(address) if any(address) else None, IPv6Address(address6) if any(address6) else None,
            bank, epochs[bank], other, cluster, int.from_bytes(echo_port, "big"), bool(flags & ConfFlag.CLASS_E),
            bool(flags & ConfFlag.DROP_OTHER_PROTOCOLS),
        )  # fmt: skip


def derived_fields(conf: bytes) -> tuple[int, ConfFlag]:
    """Return the VIP filter and the flags of an encoded `struct conf`."""
    at = CONF_STRUCT.offsets()["flags"]
    return int.from_bytes(conf[:8], "little"), ConfFlag(int.from_bytes(conf[at : at + 2], "little"))


def with_derived_fields(conf: bytes, vip_filter: int, flags: ConfFlag) -> bytes:
    """Return an encoded `struct conf` with another VIP filter and other flags."""
    at = CONF_STRUCT.offsets()["flags"]
    return vip_filter.to_bytes(8, "little") + conf[8:at] + flags.to_bytes(2, "little") + conf[at + 2 :]


def with_one_bank(conf: bytes) -> bytes:
    """Return an encoded `struct conf` that uses the bank of new flows alone."""
    at = CONF_STRUCT.offsets()["two_banks"]
    return conf[:at] + bytes(1) + conf[at + 1 :]


def with_bank_of(conf: bytes, bank: int, source: bytes) -> bytes:
    """Return an encoded `struct conf` with the key and the epoch that another one, `source`, has in a bank."""
    offsets = CONF_STRUCT.offsets()
    for name, size in (("hash_key", 8 * KEY_WORDS), ("epoch", 4)):
        at = offsets[name] + bank * size
        conf = conf[:at] + source[at : at + size] + conf[at + size :]
    return conf
