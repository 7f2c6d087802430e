# SPDX-License-Identifier: Apache-2.0
"""What happens to packets, counted per CPU and service: the numbers of lb.h's `enum counter`."""

from enum import IntEnum
from typing import Final

from bpf.layout.c_struct import CStruct


class Counter(IntEnum):
    """What happens to packets; the meaning of each stands in lb.h's `enum counter`."""

    RX = 0
    RX_FORWARDED = 1
    RX_TUNNEL = 2
    RX_ICMP_ERROR = 3
    SKIP_NO_MAC = 4
    PASS_OTHER_MAC = 5
    PASS_NO_SERVICE = 6
    PASS_FOREIGN_TUNNEL = 7
    DELIVER_OWNER = 8
    DELIVER_FORWARDED_SYN = 9
    DELIVER_UDP = 10
    DELIVER_FRAGMENT = 11
    DELIVER_SOCKET = 12
    DELIVER_TIME_WAIT = 13
    DELIVER_SYN_COOKIE = 14
    DELIVER_ONLY_NODE = 15
    DELIVER_CHAIN_END = 16
    PASS_NO_MEMBER = 17
    FORWARD_FIRST = 18
    FORWARD_AGAIN = 19
    REPLY_TOO_BIG = 20
    DROP_GRACE = 21
    DROP_HOP_LIMIT = 22
    DROP_RATE_LIMIT = 23
    DROP_FRAGMENT = 24
    DROP_MALFORMED = 25
    DROP_IPV6_HEADERS = 26
    DROP_LAND = 27
    DROP_MARTIAN = 28
    DROP_DENIED = 29
    DROP_NO_MEMBER = 30
    DROP_TOO_BIG = 31
    DROP_NO_HEADROOM = 32


STATS_STRUCT: Final = CStruct("stats", (("count", f"{len(Counter)}Q"),))
