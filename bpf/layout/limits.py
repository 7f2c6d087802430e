# SPDX-License-Identifier: Apache-2.0
"""The limits of the data path. All but the last three are constants of lb.h too."""

from typing import Final

CHAIN: Final = 8
"""Nodes in a row."""
HOP_MAX: Final = 10
"""Forwards of a packet, at most."""
NODES: Final = 1024
"""Entries of the node table; index 0 means none."""
SLOTS: Final = 256
"""Tables and counter sets; slot 0 is for packets that belong to no service."""
BANKS: Final = 2
"""Epochs that a node uses at once; each has a table of every service."""
JOINED_PLACES: Final = 7
"""Places that the order of a chain names which is joined from the rows of two epochs; claimants come after them."""
SERVICES: Final = 4096
SERVICE_CACHE: Final = 4096
"""Entries of the array in front of the services' map; a power of two."""
UPLINKS: Final = 8
PREFIXES: Final = 65_536
"""Entries of the deny list, and of the list of node prefixes."""
RATE_LIMITS: Final = 4
FIRST_FRAGMENTS: Final = 4096
"""Packets whose first fragment is remembered."""
SAMPLE_BYTES: Final = 128
"""Bytes of a sampled frame, at most."""
KEY_WORDS: Final = 10
"""64-bit words of the flow hash's key."""

KEY_SIZE: Final = 16
"""Bytes of the cluster's secret."""
ROWS_MIN: Final = 4_096
ROWS_MAX: Final = 262_144
